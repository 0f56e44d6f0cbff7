"""What training minimises: cross-entropy, and what an attention may add to it.

Legend: B images, C captions an image, T tokens, N attention maps, P memory positions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from capjax.models.captioner import Captioner, Variables
from capjax.models.contract import DecoderOutput, put_back, take_packed
from capjax.train.loss import TokenLosses, token_losses, token_weights

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised, a token or a caption at a time.

    Attributes:
      label_smoothing: see `token_losses`.
      attention_penalty: of doubly stochastic attention ("Show, Attend and Tell", Xu et al. 2015,
        section 4.2.1): weight of the mean over captions, maps and positions of
        (1 - attention summed over the caption's tokens) ** 2.
      reinforce_weight: of the drawn locations' part of hard attention's gradient (section 4.1,
        lambda_r); 1 makes the gradient's expectation the exact one.
      entropy_weight: of the mean entropy of hard attention's weights (lambda_e).
      own_words: step -> share of fed words that are the model's own draws; None feeds the
        references' alone.
    """

    label_smoothing: float = 0.0
    attention_penalty: float = 0.0
    reinforce_weight: float = 1.0
    entropy_weight: float = 0.0
    own_words: Callable[[jax.Array], jax.Array] | None = None


def inputs(batch: Batch) -> jax.Array:
    """The pixels of a batch, or its cached features."""
    return batch["image"] if "image" in batch else batch["features"]


def targets_of(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Targets int32 and whether each is a caption's token: [B, C, T], or packed [B, 1, S]."""
    targets, packing = batch["tokens"][..., 1:], batch.get("packing")
    if packing is None:
        return targets, jnp.arange(targets.shape[-1]) < batch["lengths"][..., None]
    return take_packed(targets, packing), packing[:, None] >= 0


def batch_counts(model: Captioner, batch: Batch) -> dict[str, jax.Array]:
    """What means are taken over: tokens with a weight, and captions; float32 scalars."""
    weights = token_weights(*targets_of(batch), model.decoder.banned)
    captions = (batch["lengths"] > 0).sum().astype(jnp.float32)
    return {"tokens": weights.sum(), "captions": captions}


def teacher_forced(
    model: Captioner, variables: Variables, batch: Batch, **options: Any
) -> tuple[DecoderOutput, TokenLosses]:
    """The model's output on a batch without dropout, and what each target costs."""
    return _run(model, variables, batch, train=False, label_smoothing=0.0, **options)


def objective_sum(
    model: Captioner,
    variables: Variables,
    batch: Batch,
    *,
    objective: Objective,
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
      objective: what to minimise.
      counts: `batch_counts` summed over all devices, whole batches.
      step: updates done.
      key: of dropout and draws.
      baseline: of hard attention: the usual log-probability of a token, which does not depend on
        this batch.

    Returns:
      The share, and sums to log: those of `TokenLosses.sums`, and "attention_penalty" where it is
      on.
    """
    options: dict[str, Any] = {"attention": objective.attention_penalty > 0}
    if objective.own_words is not None:
        options["own_words"] = objective.own_words(step)
    output, losses = _run(
        model,
        variables,
        batch,
        train=True,
        label_smoothing=objective.label_smoothing,
        rngs={"dropout": key, "sample": jax.random.fold_in(key, 1)},
        **options,
    )
    sums = losses.sums()
    share = sums["loss"] / counts["tokens"]
    if objective.attention_penalty:
        penalty = attention_penalty(output.attention, batch)
        share += objective.attention_penalty * penalty / counts["captions"]
        sums["attention_penalty"] = penalty
    if baseline is not None:
        share += _draws(output.aux, losses, batch, objective, baseline) / counts["tokens"]
    return share, sums


def _run(
    model: Captioner, variables: Variables, batch: Batch, *, label_smoothing: float, **options: Any
) -> tuple[DecoderOutput, TokenLosses]:
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


def _by_caption(x: jax.Array, batch: Batch) -> jax.Array:
    """x at the batch's places, packed or not, as [B, C, T, ...]."""
    if "packing" not in batch:
        return x
    captions, length = batch["tokens"].shape[1], batch["tokens"].shape[2] - 1
    return put_back(x, batch["packing"], captions, length)


def attention_penalty(attention: jax.Array, batch: Batch) -> jax.Array:
    """Sum over captions of the mean over [N, P] of (1 - what a position was given in all) ** 2.

    `attention` is [B, C, T, N, P], or packed; padding gives nothing.
    """
    _, real = targets_of(batch)
    given = _by_caption(attention * real[..., None, None], batch).sum(axis=2)
    there = batch["lengths"] > 0
    return jnp.where(there, ((1 - given) ** 2).mean(axis=(-2, -1)), 0.0).sum()


def _draws(
    aux: dict[str, jax.Array],
    losses: TokenLosses,
    batch: Batch,
    objective: Objective,
    baseline: jax.Array,
) -> jax.Array:
    """A sum whose gradient is that of hard attention's draws (Williams 1992; SAT equation 11).

    A location earns the log-probability of the tokens from its own on: earlier ones do not depend
    on it, and would only add noise.
    """
    _, real = targets_of(batch)
    aux = {name: _by_caption(value * real, batch) for name, value in aux.items()}
    earned = _by_caption(-losses.nll - baseline * losses.weight, batch)
    to_come = jnp.flip(jnp.cumsum(jnp.flip(earned, axis=2), axis=2), axis=2)
    reinforced = jax.lax.stop_gradient(to_come) * aux["location_log_prob"]
    return -(
        objective.reinforce_weight * reinforced.sum()
        + objective.entropy_weight * aux["location_entropy"].sum()
    )
