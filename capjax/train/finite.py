"""Losses, gradients and parameters that are no numbers: which part they are in, and when to stop.

A training step flags them, leaves its update out and goes on; the loop reads what steps
found whenever it logs, and before it evaluates or saves (`Watch`).
"""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capjax.files.errors import ReportedError
from capjax.parallel import devices
from capjax.train.state import TrainState

_NAMED = 6


class NonFiniteError(ReportedError, ValueError):
    """Training met NaN or infinity and stopped; the message says where, and what would work."""


def part_names(params: Any) -> list[str]:
    """The parts that are told apart: "encoder/stem", "decoder/block_0", ...; sorted."""
    return sorted({name for name, _ in _by_part(params)})


def part_squares(tree: Any) -> jax.Array:
    """The sum of squares of each of `part_names`, float32 [parts]: not finite where a leaf is not.

    Also where a number is beyond 1e19, whose square is infinite.
    """
    sums: dict[str, jax.Array] = collections.defaultdict(lambda: jnp.zeros(()))
    for name, leaf in _by_part(tree):
        sums[name] += jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    return jnp.stack([sums[name] for name in part_names(tree)])


def bad_parts(params: Any) -> list[str]:
    """Parts of unreplicated parameters with numbers that are not finite, or beyond 1e19."""
    bad = set()
    with np.errstate(over="ignore", invalid="ignore"):
        for name, leaf in _by_part(params):
            flat = np.asarray(leaf, np.float32).ravel()
            if not np.isfinite(np.dot(flat, flat)):
                bad.add(name)
    return sorted(bad)


def keep_where(finite: jax.Array, new: Any, old: Any) -> Any:
    """`new` where a step's update is to be made, else `old`; but integers go on.

    They count steps, and what hangs on them stays in time: an optimizer's learning rate, for one.
    """
    return jax.tree.map(
        lambda x, y: jnp.where(finite, x, y) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
        new,
        old,
    )


@dataclasses.dataclass
class Watch:
    """Counts updates that were left out, and says when there were too many in a row.

    Attributes:
      limit: updates in a row that may be left out.
      skipped: updates left out so far.
      streak: how many of them are the last ones.
    """

    limit: int
    skipped: int = 0
    streak: int = 0
    _waiting: list[tuple[int, jax.Array]] = dataclasses.field(default_factory=list, repr=False)

    @property
    def progress(self) -> dict[str, int]:
        """What a checkpoint holds of it."""
        return {"skipped": self.skipped, "streak": self.streak}

    def add(self, step: int, flags: jax.Array) -> None:
        """Takes the "nonfinite" of the metrics of a step; it stays on the device until `read`."""
        self._waiting.append((step, flags))

    def read(self, state: TrainState) -> None:
        """Counts what steps since the last reading left out.

        Raises:
          NonFiniteError: too many in a row; `state`, replicated, shows where.
        """
        waiting, self._waiting = self._waiting, []
        for step, flags in waiting:
            found = np.asarray(devices.unreplicate(flags))
            self.streak = self.streak + 1 if found.any() else 0
            self.skipped += bool(found.any())
            if self.streak > self.limit:
                params = devices.unreplicate(state.params)
                raise NonFiniteError(_reason(step, found, params, self.streak))

    def check(self, step: int, state: TrainState) -> None:
        """`read`, and holds the parameters after `step` against what may be evaluated and saved.

        Raises:
          NonFiniteError: parameters, or their moving average, are not finite or are beyond 1e19.
        """
        self.read(state)
        for what, params in (("parameters", state.params), ("moving average", state.ema)):
            if params is not None and (bad := bad_parts(devices.unreplicate(params))):
                where = _list(_whole(bad, part_names(params)))
                raise NonFiniteError(
                    f"after step {step} the {what} of {where} are not finite or are beyond 1e19. "
                    f"{ADVICE}"
                )


ADVICE = (
    "Nothing of it was saved. Start anew, or by --config.init_from from the last checkpoint in "
    "another --workdir, with a lower config.optimizer.learning_rate, with "
    "config.optimizer.clip_norm=1 or with config.dtype='float32'"
)


def _reason(step: int, found: np.ndarray, params: Any, streak: int) -> str:
    names = part_names(params)
    parts = [name for name, bad in zip(names, found[1:], strict=True) if bad]
    what = ["the loss"] if found[0] else []
    what += [f"the gradient of {_list(_whole(parts, names))}"] if parts else []
    sick = bad_parts(params)
    already = f"the parameters of {_list(sick)} were not, either" if sick else "the parameters were"
    again = f", after {streak - 1} other updates that were left out" if streak > 1 else ""
    more = "" if sick else "; or pass over such steps by config.optimizer.skip_nonfinite"
    verb = "are" if len(what) > 1 else "is"
    return f"step {step}{again}: {' and '.join(what)} {verb} not finite; {already}. {ADVICE}{more}"


def _by_part(tree: Any) -> Iterator[tuple[str, Any]]:
    """Each leaf with its part: at most the first two names of where it is."""
    for at, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(at[:2], simple=True, separator="/"), leaf


def _whole(bad: list[str], names: list[str]) -> list[str]:
    """`bad` with all parts of an encoder, an adapter or a decoder as one."""
    whole = {name.split("/")[0] for name in names} - {
        name.split("/")[0] for name in names if name not in bad
    }
    return sorted({name.split("/")[0] if name.split("/")[0] in whole else name for name in bad})


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
