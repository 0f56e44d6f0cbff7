"""The interface of objectives, and functions they share. They are in `train/objectives/`.

Shapes: see docs/architecture.md.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from capjax.models.captioner import Captioner, Variables
from capjax.models.contract import DecoderOutput, gather_packed
from capjax.train.loss import TokenLosses, chunked_losses, token_losses, token_weights

Batch = dict[str, jax.Array]

# Most logits that the loss has in memory at once, of decoders that give their states: 256 MiB.
MOST_LOGITS = 2**26


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
          The share, and sums to log: those of `TokenLosses.sums`, if the references are scored, and
          of the objective.
        """
        ...

    def scalars(
        self, sums: dict[str, jax.Array], counts: dict[str, jax.Array], step: jax.Array
    ) -> dict[str, jax.Array]:
        """Computes further scalars to log from the sums over all devices."""
        ...


class Prepared(Objective, Protocol):
    """An objective that needs all references, or the parameters that training starts from.

    Its batches also have "references" int32 [B, R, T], "words ... eos" with ids of their own for
    words outside the vocabulary, "reference_lengths" int32 [B, R], 0 where there is none, and
    "keys" uint32 [B, 2], key data of an image's own draws. Its `share` also takes `constants`.
    """

    def prepare(
        self,
        references: Sequence[Sequence[np.ndarray]],
        params: Any,
        *,
        eos_id: int,
        vocab_size: int,
    ) -> Any:
        """Makes `constants`, a tree of arrays that training does not change.

        It is called at every start, and must return the same each time.

        Args:
          references: all captions of each image of the train split.
          params: the trained parameters that training began with.
          eos_id: the end token, the last of each reference.
          vocab_size: V; ids from V on are words outside the vocabulary.
        """
        ...


def is_prepared(objective: Objective | type) -> bool:
    """True if the objective has a `prepare`."""
    return hasattr(objective, "prepare")


def inputs(batch: Batch) -> jax.Array:
    """The pixels of a batch, or its cached features."""
    return batch["image"] if "image" in batch else batch["features"]


def targets_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Targets int32, and bool True for tokens of a caption: [B, C, T], or packed [B, 1, S]."""
    targets, packing = batch["tokens"][..., 1:], batch.get("packing")
    if packing is None:
        return targets, jnp.arange(targets.shape[-1]) < batch["lengths"][..., None]
    return gather_packed(targets, packing), packing[:, None] >= 0


def scored_targets(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """`targets_of`, with False for the tokens of a prompt, too: they are fed without a loss."""
    targets, real = targets_of(batch)
    if "prompt" in batch:
        length, packing = batch["tokens"].shape[-1] - 1, batch.get("packing")
        place = jnp.arange(length) if packing is None else packing[:, None] % length
        real &= place >= batch["prompt"][:, None, None]
    return targets, real


def batch_counts(model: Captioner, batch: Batch) -> dict[str, jax.Array]:
    """Counts of tokens with weight, of captions and of images with references, float32 scalars."""
    weights = token_weights(*scored_targets(batch), model.decoder.banned)
    captions = (batch["lengths"] > 0).sum().astype(jnp.float32)
    counts = {"tokens": weights.sum(), "captions": captions}
    if "references" in batch:
        counts["images"] = has_references(batch).sum().astype(jnp.float32)
    return counts


def has_references(batch: Batch) -> jax.Array:
    """Bool [B], False for rows without references."""
    return (batch["reference_lengths"] > 0).any(axis=-1)


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
    targets, real = scored_targets(batch)
    rules = {"banned": model.decoder.banned, "label_smoothing": label_smoothing}
    if output.states is None or output.logits.size <= MOST_LOGITS:
        return output, token_losses(output.logits, targets, real, **rules)

    # Unless a caller uses them, XLA leaves out the logits of `output`.
    def logits_of(states: jax.Array, number: jax.Array) -> jax.Array:
        keys = options.get("rngs") or {}
        keys = {name: jax.random.fold_in(key, number) for name, key in keys.items()}
        train = options["train"]
        return model.apply(variables, states, train=train, rngs=keys, method="logits_of")

    chunk = max(1, MOST_LOGITS // output.logits.shape[-1])
    return output, chunked_losses(logits_of, output.states, targets, real, chunk=chunk, **rules)
