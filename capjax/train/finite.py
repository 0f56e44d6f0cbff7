"""Detection of losses, gradients and parameters that are not finite.

A training step flags them and skips its update. The loop reads the flags whenever it logs, and
before it evaluates or saves (`Watch`).
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capjax.files.errors import ReportedError
from capjax.models.stacks import names_of, unstacked
from capjax.parallel import devices
from capjax.train.state import TrainState

_NAMED = 6


class NonFiniteError(ReportedError, ValueError):
    """Training stopped at NaN or infinity; the message names the step, the part and a remedy."""


def part_names(params: Any) -> list[str]:
    """Sorted names of the parts of a model, such as "encoder/stem" and "decoder/block_0"."""
    return sorted({one for name, _ in _by_part(params) for one in names_of(name) or [name]})


def part_squares(tree: Any) -> jax.Array:
    """Sum of squares of each of `part_names`, float32 [parts].

    It is not finite if the part has a value that is not finite, or beyond 1e19, whose square
    overflows.
    """
    sums: dict[str, jax.Array] = collections.defaultdict(lambda: jnp.zeros(()))
    for name, leaf in _by_part(tree):
        squares = jnp.square(leaf.astype(jnp.float32))
        if blocks := names_of(name):
            each = squares.sum(axis=tuple(range(1, leaf.ndim)))
            for place, block in enumerate(blocks):
                sums[block] += each[place]
        else:
            sums[name] += jnp.sum(squares)
    return jnp.stack([sums[name] for name in part_names(tree)])


def bad_parts(params: Any) -> list[str]:
    """Names of parts of unreplicated parameters with values not finite or beyond 1e19."""
    bad = set()
    with np.errstate(over="ignore", invalid="ignore"):
        for name, leaf in _by_part(params):
            flat = np.asarray(leaf, np.float32).ravel()
            if not np.isfinite(np.dot(flat, flat)):
                bad.add(name)
    return sorted(bad)


def keep_where(finite: jax.Array | bool, new: Any, old: Any) -> Any:
    """Selects `new` if `finite`, else `old`; integer leaves are always `new`.

    Integers count steps, so that the learning rate schedule of the optimizer stays in time.
    """
    return jax.tree.map(
        lambda x, y: jnp.where(finite, x, y) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
        new,
        old,
    )


@dataclasses.dataclass
class Watch:
    """Counts skipped updates and raises after too many in a row.

    Attributes:
      limit: largest permitted number of consecutive skipped updates.
      skipped: number of updates skipped so far.
      streak: number of consecutive skipped updates at the end.
    """

    limit: int
    skipped: int = 0
    streak: int = 0
    _waiting: list[tuple[int, jax.Array]] = dataclasses.field(default_factory=list, repr=False)

    @property
    def progress(self) -> dict[str, int]:
        """The counts to save in a checkpoint."""
        return {"skipped": self.skipped, "streak": self.streak}

    def add(self, step: int, flags: jax.Array) -> None:
        """Adds the metric "nonfinite" of a step, which stays on the device until `read`."""
        self._waiting.append((step, flags))

    def read(self, state: TrainState) -> None:
        """Counts the skipped updates since the last call.

        Args:
          state: replicated; its parameters are named in the error.

        Raises:
          NonFiniteError: more than `limit` consecutive updates were skipped.
        """
        waiting, self._waiting = self._waiting, []
        for step, flags in waiting:
            found = np.asarray(devices.unreplicate(flags))
            self.streak = self.streak + 1 if found.any() else 0
            self.skipped += bool(found.any())
            if self.streak > self.limit:
                params = unstacked(devices.unreplicate(state.params))
                raise NonFiniteError(_reason(step, found, params, self.streak))

    def check(self, step: int, state: TrainState) -> None:
        """Calls `read` and checks that the parameters after `step` are finite.

        Raises:
          NonFiniteError: as `read`; or parameters, or their moving average, are not finite or are
            beyond 1e19.
        """
        self.read(state)
        for what, params in (("parameters", state.params), ("moving average", state.ema)):
            if params is None:
                continue
            params = unstacked(devices.unreplicate(params))
            if bad := bad_parts(params):
                where = _join(_merge_parts(bad, part_names(params)))
                raise NonFiniteError(
                    f"after step {step} the {what} of {where} are not finite or are beyond 1e19. "
                    f"{ADVICE}"
                )


ADVICE = (
    "This state was not saved. Start again, or from the last checkpoint by --config.init_from in "
    "another --workdir, with a lower config.optimizer.learning_rate, with "
    "config.optimizer.clip_norm=1 or with config.dtype='float32'"
)


def _reason(step: int, found: np.ndarray, params: Any, streak: int) -> str:
    names = part_names(params)
    parts = [name for name, bad in zip(names, found[1:], strict=True) if bad]
    what = ["the loss"] if found[0] else []
    what += [f"the gradient of {_join(_merge_parts(parts, names))}"] if parts else []
    sick = bad_parts(params)
    already = f"the parameters of {_join(sick)} were not finite" if sick else "the parameters were"
    again = f", after {streak - 1} other skipped updates" if streak > 1 else ""
    more = "" if sick else "; or skip such steps with config.optimizer.skip_nonfinite"
    verb = "are" if len(what) > 1 else "is"
    return f"step {step}{again}: {' and '.join(what)} {verb} not finite; {already}. {ADVICE}{more}"


def _by_part(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yields (part, leaf); the part is the first two names of the path of the leaf, or one."""
    for at, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(at[:2], simple=True, separator="/"), leaf


def _merge_parts(bad: list[str], names: list[str]) -> list[str]:
    """The names `bad`, where all parts of an encoder, adapter or decoder become its name."""
    whole = {name.split("/")[0] for name in names} - {
        name.split("/")[0] for name in names if name not in bad
    }
    return sorted({name.split("/")[0] if name.split("/")[0] in whole else name for name in bad})


def _join(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
