"""Checkpoints by orbax: the latest and the best, each one unreplicated NumPy copy.

Of several processes the first writes and all read, each by itself: orbax is told that it has no
other process to wait for.

A step's folder holds the items `params`, `ema` (where there is one), `optimizer` and `progress`
(JSON: the early-stopping state). They are separate so that a captioner can load the one that it
needs.
"""

import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from capjax import processes
from capjax.train.state import TrainState


class Checkpoints:
    """The checkpoints of one run.

    Attributes:
      directory: where they lie, one folder a step.
    """

    def __init__(self, directory: str, metric: str, mode: str, *, read_only: bool = False):
        """Opens `directory`, or makes it unless `read_only`.

        `mode` "max" or "min" says which `metric` is best.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"early_stopping.mode is {mode!r}; it may be 'max' or 'min'")
        self.directory = os.path.abspath(directory)
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[metric],
                    reverse=mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=lambda metrics: metrics[metric],
            best_mode=mode,
            read_only=read_only,
            create=False,  # Orbax makes no folder for some of the processes.
            save_interval_steps=0 if read_only else 1,
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=processes.index(), active_processes={processes.index()}
            ),
        )
        if not read_only:
            os.makedirs(self.directory, exist_ok=True)
        # Asked to read only, orbax warns that it reads only.
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR if read_only else verbosity)
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        finally:
            logging.set_verbosity(verbosity)

    def save(
        self, state: TrainState, progress: dict[str, Any], metrics: dict[str, float] | None
    ) -> None:
        """Writes in the background; `metrics` are None where nothing was evaluated.

        Only the first process does.
        """
        if not processes.is_first():
            return
        items = {
            "params": ocp.args.StandardSave(state.params),
            "optimizer": ocp.args.StandardSave(_rest(state)),
            "progress": ocp.args.JsonSave(progress),
        }
        if state.ema is not None:
            items["ema"] = ocp.args.StandardSave(state.ema)
        self._manager.save(int(state.step), args=ocp.args.Composite(**items), metrics=metrics)

    def steps(self) -> list[int]:
        """Every step that is there, in order."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step saved, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The best step by the metric; the latest where none was evaluated; or None."""
        best = self._manager.best_step()
        return self._manager.latest_step() if best is None else best

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state saved at `step`, as NumPy in the structure of `like`, and its progress."""
        items = {
            "params": ocp.args.StandardRestore(_as_numpy(like.params)),
            "optimizer": ocp.args.StandardRestore(_as_numpy(_rest(like))),
            "progress": ocp.args.JsonRestore(),
        }
        if like.ema is not None:
            items["ema"] = ocp.args.StandardRestore(_as_numpy(like.ema))
        saved = self._manager.restore(step, args=ocp.args.Composite(**items))
        state = TrainState(
            step=saved["optimizer"]["step"],
            params=saved["params"],
            opt_state=saved["optimizer"]["state"],
            ema=saved["ema"] if like.ema is not None else None,
            frozen=like.frozen,
            baseline=saved["optimizer"].get("baseline"),
        )
        return state, saved["progress"]

    def restore_params(self, step: int, like: Any) -> Any:
        """What to caption with at `step`, the average where there is one, as NumPy."""
        item = "ema" if os.path.isdir(os.path.join(self.directory, str(step), "ema")) else "params"
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(_as_numpy(like))})
        return self._manager.restore(step, args=args)[item]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _rest(state: TrainState) -> dict[str, Any]:
    """What only training needs."""
    rest = {"step": state.step, "state": state.opt_state}
    return rest if state.baseline is None else {**rest, "baseline": state.baseline}


def _as_numpy(tree: Any) -> Any:
    """NumPy leaves, so that orbax restores to the host whatever devices there are."""
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), tree)
