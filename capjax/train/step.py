"""The training step and the teacher-forced evaluation step, for one device.

Both are to be mapped by `capjax.parallel.map_devices`. A masked mean over devices is a sum over
a sum: per-device means would weigh a token by how few its device had.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from capjax import parallel
from capjax.models.captioner import Captioner, Variables, join_frozen
from capjax.models.contract import take_packed
from capjax.train.loss import caption_loss
from capjax.train.state import TrainState, update_ema

Batch = dict[str, jax.Array]


def inputs(batch: Batch) -> jax.Array:
    """The pixels of a batch, or its cached features."""
    return batch["image"] if "image" in batch else batch["features"]


def batch_loss(
    model: Captioner,
    variables: Variables,
    batch: Batch,
    *,
    train: bool,
    key: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, jax.Array]:
    """The sums of `caption_loss` over one device's batch; `key` is dropout's."""
    tokens, packing = batch["tokens"], batch.get("packing")
    targets = tokens[..., 1:]
    if packing is None:
        real = jnp.arange(targets.shape[-1]) < batch["lengths"][..., None]
    else:
        targets, real = take_packed(targets, packing), packing[:, None] >= 0
    output = model.apply(
        variables,
        inputs(batch),
        tokens[..., :-1],
        train=train,
        packing=packing,
        rngs=None if key is None else {"dropout": key},
    )
    return caption_loss(
        output.logits,
        targets,
        real,
        banned=model.decoder.banned,
        label_smoothing=label_smoothing,
    )


def make_train_step(
    model: Captioner,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    label_smoothing: float = 0.0,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """A per-device step: (state, batch) -> (state, metrics).

    Args:
      model: the captioner; `model.decoder.banned` targets have no weight.
      optimizer: applied to the gradient of the mean loss a token over all devices.
      seed: dropout's; its key also folds in the step, the device and the microbatch.
      label_smoothing: see `caption_loss`.
      accumulate: microbatches that a device's share is cut into, to save memory.
      ema_decay: of the moving average that the state may hold.

    Returns:
      The step. Its metrics are float32 scalars, equal on every device: loss (nats a token, as
      evaluation has it), objective (with label smoothing), accuracy, tokens, captions, grad_norm.
    """

    def loss_sum(params: Any, frozen: Variables, batch: Batch, key: jax.Array):
        variables = join_frozen(params, frozen)
        sums = batch_loss(
            model, variables, batch, train=True, key=key, label_smoothing=label_smoothing
        )
        return sums["loss"], sums

    gradient = jax.grad(loss_sum, has_aux=True)

    def accumulated(params: Any, frozen: Variables, batch: Batch, key: jax.Array):
        """Sums of gradients and losses over the microbatches, one at a time in memory."""
        size = batch["lengths"].shape[0]
        if size % accumulate:
            raise ValueError(
                f"accumulate={accumulate} does not divide the {size} images a device has"
            )
        micro = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)

        def add(total, indexed):
            index, part = indexed
            new = gradient(params, frozen, part, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, new), None

        first = jax.tree.map(lambda x: x[0], micro)
        shapes = jax.eval_shape(gradient, params, frozen, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(accumulate), micro))[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key = jax.random.fold_in(key, parallel.device_index())
        compute = gradient if accumulate == 1 else accumulated
        grads, sums = compute(state.params, state.frozen, batch, key)
        captions = (batch["lengths"] > 0).sum().astype(jnp.float32)
        grads, sums, captions = parallel.psum((grads, sums, captions))
        count = jnp.maximum(sums["tokens"], 1.0)
        grads = jax.tree.map(lambda g: g / count, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else update_ema(state.ema, params, state.step, ema_decay)
        metrics = {
            "loss": sums["nll"] / count,
            "objective": sums["loss"] / count,
            "accuracy": sums["correct"] / count,
            "tokens": sums["tokens"],
            "captions": captions,
            "grad_norm": optax.tree.norm(grads),
        }
        return TrainState(state.step + 1, params, opt_state, ema, state.frozen), metrics

    return step


def make_loss_step(model: Captioner) -> Callable[[Variables, Batch], dict[str, jax.Array]]:
    """A per-device (variables, batch) -> sums of teacher-forced nll, correct and tokens."""

    def step(variables: Variables, batch: Batch) -> dict[str, jax.Array]:
        sums = batch_loss(model, variables, batch, train=False)
        return parallel.psum({name: sums[name] for name in ("nll", "correct", "tokens")})

    return step
