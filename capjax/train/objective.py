"""The interface of objectives, and functions they share. They are in `train/objectives/`.

Shapes: see docs/architecture.md.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from capjax.models.captioner import Captioner, Variables
from capjax.models.contract import DecoderOutput, gather_packed
from capjax.train.loss import TokenLosses, token_losses, token_weights

Batch = dict[str, jax.Array]


class Objective(Protocol):
    """The function that training minimises, a sum of shares over devices and microbatches.

    An objective is a frozen dataclass. Its fields are those of the objective section of a config.
    """

    def share(
        self,
        model: Captioner,
        variables: Variables,
        batch: Batch,
        *,
        counts: dict[str, jax.Array],
        step: jax.Array,
        key: jax.Array,
        baseline: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the share of a (micro)batch; the sum over all of them is the objective.

        It is already divided by the `counts` of the whole batch.

        Args:
          model: the captioner.
          variables: of the captioner.
          batch: of one device, or a microbatch.
          counts: `batch_counts` of the whole batch, summed over all devices.
          step: number of updates done.
          key: random key of dropout and sampling.
          baseline: average log-probability of a token in earlier batches, for hard attention;
            otherwise None.

        Returns:
          The share, and sums to log: those of `TokenLosses.sums` and of the objective.
        """
        ...

    def scalars(
        self, sums: dict[str, jax.Array], counts: dict[str, jax.Array], step: jax.Array
    ) -> dict[str, jax.Array]:
        """Computes further scalars to log from the sums over all devices."""
        ...


def inputs(batch: Batch) -> jax.Array:
    """The pixels of a batch, or its cached features."""
    return batch["image"] if "image" in batch else batch["features"]


def targets_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Targets int32, and bool True for tokens of a caption: [B, C, T], or packed [B, 1, S]."""
    targets, packing = batch["tokens"][..., 1:], batch.get("packing")
    if packing is None:
        return targets, jnp.arange(targets.shape[-1]) < batch["lengths"][..., None]
    return gather_packed(targets, packing), packing[:, None] >= 0


def batch_counts(model: Captioner, batch: Batch) -> dict[str, jax.Array]:
    """Counts of tokens with weight and of captions, float32 scalars."""
    weights = token_weights(*targets_of(batch), model.decoder.banned)
    captions = (batch["lengths"] > 0).sum().astype(jnp.float32)
    return {"tokens": weights.sum(), "captions": captions}


def teacher_forced(
    model: Captioner, variables: Variables, batch: Batch, **options: Any
) -> tuple[DecoderOutput, TokenLosses]:
    """Runs the model on a batch without dropout; returns its output and the loss of each target."""
    return run(model, variables, batch, train=False, label_smoothing=0.0, **options)


def run(
    model: Captioner, variables: Variables, batch: Batch, *, label_smoothing: float, **options: Any
) -> tuple[DecoderOutput, TokenLosses]:
    """Runs the model with `options` on a batch; returns its output and the loss of each target."""
    output = model.apply(
        variables,
        inputs(batch),
        batch["tokens"][..., :-1],
        packing=batch.get("packing"),
        **options,
    )
    losses = token_losses(
        output.logits,
        *targets_of(batch),
        banned=model.decoder.banned,
        label_smoothing=label_smoothing,
    )
    return output, losses
