"""The training step and the teacher-forced evaluation step, for one device.

Both must be mapped by `parallel.devices.map_devices`. A mean over devices is the sum of sums over
the sum of counts: a mean of per-device means would weight tokens by the padding of their device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from capjax.models.captioner import Captioner, Variables, join_frozen
from capjax.parallel import devices
from capjax.parallel.platform import on_cpu
from capjax.train.finite import keep_where, part_squares
from capjax.train.objective import Batch, Objective, batch_counts, teacher_forced
from capjax.train.state import TrainState, update_baseline, update_ema


def make_train_step(
    model: Captioner,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    objective: Objective,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds a per-device training step, (state, batch) -> (state, metrics).

    Args:
      model: the captioner; targets in `model.decoder.banned` have no weight.
      optimizer: applied to the gradient of the objective over all devices.
      seed: of dropout and sampling; their key also folds in the step, device and microbatch.
      objective: the function to minimise.
      accumulate: number of microbatches for the batch of a device, to save memory.
      ema_decay: decay of the moving average, if the state has one.

    Returns:
      The step. Its metrics are float32 scalars, equal on all devices: loss (nats a token, as in
      evaluation) and accuracy if the objective runs on the references, objective, tokens, captions,
      grad_norm, those of the objective, and baseline if the state has one; and "nonfinite", bool
      [1 + parts], True if the loss or the objective, and the gradient of each of `part_names`, is
      not finite. If any is True, the update is skipped: parameters, their average, the moments of
      the optimizer and the baseline keep their values, but counters advance, so the next step has
      its own batch, dropout and learning rate.
    """

    def share(params: Any, frozen: Variables, batch: Batch, key: jax.Array, fixed: dict):
        variables = join_frozen(params, frozen)
        value, sums = objective.share(model, variables, batch, key=key, **fixed)
        return value, {"objective": value, **sums}

    gradient = jax.grad(share, has_aux=True)

    def accumulated(params: Any, frozen: Variables, batch: Batch, key: jax.Array, fixed: dict):
        """Sums gradients and losses over the microbatches, with one at a time in memory."""
        size = batch["lengths"].shape[0]
        if size % accumulate:
            raise ValueError(
                f"accumulate={accumulate} does not divide the {size} images of a device"
            )
        micro = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

        def add(total, indexed):
            index, part = indexed
            new = gradient(params, frozen, part, jax.random.fold_in(key, index), fixed)
            return jax.tree.map(jnp.add, total, new), None

        first = jax.tree.map(lambda x: x[0], micro)
        shapes = jax.eval_shape(gradient, params, frozen, first, key, fixed)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(accumulate), micro))[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key = jax.random.fold_in(key, devices.device_index())
        found = devices.psum(batch_counts(model, batch))
        counts = jax.tree.map(lambda count: jnp.maximum(count, 1.0), found)
        fixed = {"counts": counts, "step": state.step, "baseline": state.baseline}
        if state.constants is not None:
            fixed["constants"] = state.constants
        compute = gradient if accumulate == 1 else accumulated
        grads, sums = devices.psum(compute(state.params, state.frozen, batch, key, fixed))
        squares = part_squares(grads)
        metrics = {
            "objective": sums["objective"],
            "tokens": found["tokens"],
            "captions": found["captions"],
            "grad_norm": jnp.sqrt(squares.sum()),
        }
        # Computed from sums over all devices, so that all devices agree.
        whole = jnp.isfinite(sums["objective"])
        if "nll" in sums:
            metrics["loss"] = sums["nll"] / counts["tokens"]
            metrics["accuracy"] = sums["correct"] / counts["tokens"]
            whole &= jnp.isfinite(sums["nll"])
        metrics["nonfinite"] = ~jnp.concatenate([whole[None], jnp.isfinite(squares)])
        metrics |= objective.scalars(sums, counts, state.step)
        baseline = state.baseline
        if baseline is not None:
            metrics["baseline"] = baseline
            baseline = update_baseline(baseline, -metrics["loss"], state.step)

        def update() -> dict[str, Any]:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ema = state.ema
            if ema is not None:
                ema = update_ema(ema, params, state.step, ema_decay)
            return {"params": params, "opt_state": opt_state, "ema": ema, "baseline": baseline}

        old = {name: getattr(state, name) for name in ("params", "opt_state", "ema", "baseline")}
        finite = ~metrics["nonfinite"].any()
        if on_cpu():
            # Around a choice of each number XLA copies the state; in a branch it replaces it in
            # place, if that is the one of a true predicate. GPUs would wait for the predicate.
            kept = jax.lax.cond(finite, update, lambda: keep_where(False, update(), old))
        else:
            kept = keep_where(finite, update(), old)
        return state.replace(**kept, step=state.step + 1), metrics

    return step


def make_loss_step(model: Captioner) -> Callable[[Variables, Batch], dict[str, jax.Array]]:
    """Builds a per-device (variables, batch) -> teacher-forced sums nll, correct and tokens."""

    def step(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        sums = teacher_forced(model, variables, batch)[1].sums()
        return devices.psum({name: sums[name] for name in ("nll", "correct", "tokens")})

    return step
