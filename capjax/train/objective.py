"""What every objective keeps, and what they share. The objectives are in `train/objectives/`.

Legend: B images, C captions an image, T tokens, N attention maps, P memory positions.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from capjax.models.captioner import Captioner, Variables
from capjax.models.contract import DecoderOutput, gather_packed
from capjax.train.loss import TokenLosses, token_losses, token_weights

Batch = dict[str, jax.Array]


class Objective(Protocol):
    """What training minimises: a sum over devices and microbatches of each part's share.

    A frozen dataclass. Its config fields are those of the config's objective section.
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
        """A part's share of the objective: summed over devices and microbatches it is the whole.

        Args:
          model: the captioner.
          variables: of it.
          batch: one device's, or a part of it.
          counts: `batch_counts` summed over all devices, whole batches.
          step: updates done.
          key: of dropout and draws.
          baseline: of hard attention: the usual log-probability of a token, which does not depend
            on this batch; None without.

        Returns:
          The share, and sums to log: those of `TokenLosses.sums`, and its own.
        """
        ...

    def scalars(
        self, sums: dict[str, jax.Array], counts: dict[str, jax.Array], step: jax.Array
    ) -> dict[str, jax.Array]:
        """Scalars to log beside the loss, from the sums over all devices."""
        ...


def inputs(batch: Batch) -> jax.Array:
    """The pixels of a batch, or its cached features."""
    return batch["image"] if "image" in batch else batch["features"]


def targets_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Targets int32 and whether each is a caption's token: [B, C, T], or packed [B, 1, S]."""
    targets, packing = batch["tokens"][..., 1:], batch.get("packing")
    if packing is None:
        return targets, jnp.arange(targets.shape[-1]) < batch["lengths"][..., None]
    return gather_packed(targets, packing), packing[:, None] >= 0


def batch_counts(model: Captioner, batch: Batch) -> dict[str, jax.Array]:
    """What means are taken over: tokens with a weight, and captions; float32 scalars."""
    weights = token_weights(*targets_of(batch), model.decoder.banned)
    captions = (batch["lengths"] > 0).sum().astype(jnp.float32)
    return {"tokens": weights.sum(), "captions": captions}


def teacher_forced(
    model: Captioner, variables: Variables, batch: Batch, **options: Any
) -> tuple[DecoderOutput, TokenLosses]:
    """The model's output on a batch without dropout, and what each target costs."""
    return run(model, variables, batch, train=False, label_smoothing=0.0, **options)


def run(
    model: Captioner, variables: Variables, batch: Batch, *, label_smoothing: float, **options: Any
) -> tuple[DecoderOutput, TokenLosses]:
    """The model's output on a batch, and what each target costs; `options` go to the model."""
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
