"""Cross-entropy of the references, with optional terms for soft and hard attention.

Shapes: see docs/architecture.md.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from capjax.models.captioner import Captioner, Variables
from capjax.models.contract import scatter_packed
from capjax.parts.types import Given
from capjax.train.loss import TokenLosses
from capjax.train.objective import Batch, run, targets_of


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """Masked cross-entropy per token, with the penalty of soft and the gradient of hard attention.

    Its fields come from top-level fields and sections of a config, not from the objective section,
    so that older configs stay valid.

    Attributes:
      label_smoothing: see `token_losses`.
      attention_penalty: weight of the penalty of doubly stochastic attention, the mean over
        captions, maps and positions of (1 - attention summed over the caption's tokens) ** 2
        ("Show, Attend and Tell", Xu et al. 2015, section 4.2.1).
      reinforce_weight: weight of the gradient through the sampled locations of hard attention
        (section 4.1, lambda_r); with 1 the gradient is unbiased.
      entropy_weight: weight of the mean entropy of the weights of hard attention (lambda_e).
      own_words: step -> probability of feeding a token sampled from the model instead of the
        reference; None always feeds the reference.
    """

    label_smoothing: Given[float] = 0.0
    attention_penalty: Given[float] = 0.0
    reinforce_weight: Given[float] = 1.0
    entropy_weight: Given[float] = 0.0
    own_words: Given[Callable[[jax.Array], jax.Array] | None] = None

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
        """See `Objective`; the sums include "attention_penalty" if it is enabled."""
        options: dict[str, Any] = {"attention": self.attention_penalty > 0}
        if self.own_words is not None:
            options["own_words"] = self.own_words(step)
        output, losses = run(
            model,
            variables,
            batch,
            train=True,
            label_smoothing=self.label_smoothing,
            rngs={"dropout": key, "sample": jax.random.fold_in(key, 1)},
            **options,
        )
        sums = losses.sums()
        share = sums["loss"] / counts["tokens"]
        if self.attention_penalty:
            penalty = attention_penalty(output.attention, batch)
            share += self.attention_penalty * penalty / counts["captions"]
            sums["attention_penalty"] = penalty
        if baseline is not None:
            share += self._reinforce_loss(output.aux, losses, batch, baseline) / counts["tokens"]
        return share, sums

    def scalars(
        self, sums: dict[str, jax.Array], counts: dict[str, jax.Array], step: jax.Array
    ) -> dict[str, jax.Array]:
        """The attention penalty and the probability of own words, if enabled."""
        found = {}
        if self.attention_penalty:
            found["attention_penalty"] = sums["attention_penalty"] / counts["captions"]
        if self.own_words is not None:
            found["own_words"] = self.own_words(step)
        return found

    def _reinforce_loss(
        self,
        aux: dict[str, jax.Array],
        losses: TokenLosses,
        batch: Batch,
        baseline: jax.Array,
    ) -> jax.Array:
        """Surrogate loss with the gradient of the sampled locations of hard attention.

        REINFORCE (Williams 1992), equation 11 of "Show, Attend and Tell". The reward of a location
        is the log-probability of its own and later tokens: earlier ones do not depend on it and
        would only add variance.
        """
        _, real = targets_of(batch)
        aux = {name: _by_caption(value * real, batch) for name, value in aux.items()}
        earned = _by_caption(-losses.nll - baseline * losses.weight, batch)
        to_come = jnp.flip(jnp.cumsum(jnp.flip(earned, axis=2), axis=2), axis=2)
        reinforced = jax.lax.stop_gradient(to_come) * aux["location_log_prob"]
        return -(
            self.reinforce_weight * reinforced.sum()
            + self.entropy_weight * aux["location_entropy"].sum()
        )


def _by_caption(x: jax.Array, batch: Batch) -> jax.Array:
    """Unpacks x [B, 1, S, ...] to [B, C, T, ...] if the batch is packed."""
    if "packing" not in batch:
        return x
    captions, length = batch["tokens"].shape[1], batch["tokens"].shape[2] - 1
    return scatter_packed(x, batch["packing"], captions, length)


def attention_penalty(attention: jax.Array, batch: Batch) -> jax.Array:
    """Sum over captions of the mean over [N, P] of (1 - attention summed over T) ** 2.

    `attention` is [B, C, T, N, P], or packed [B, 1, S, N, P]; padding is ignored.
    """
    _, real = targets_of(batch)
    given = _by_caption(attention * real[..., None, None], batch).sum(axis=2)
    there = batch["lengths"] > 0
    return jnp.where(there, ((1 - given) ** 2).mean(axis=(-2, -1)), 0.0).sum()


PART = CrossEntropy
