"""Cross-entropy of the references, and what an attention may add to it.

Legend: B images, C captions an image, T tokens, N attention maps, P memory positions.
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
    """The masked cross-entropy a token, with the penalty and the draws of an attention.

    Its fields are top-level fields and sections of a config, as they were before there was a choice
    of objectives.

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
        """See `Objective`; the sums have "attention_penalty" where it is on."""
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
            share += self._draws(output.aux, losses, batch, baseline) / counts["tokens"]
        return share, sums

    def scalars(
        self, sums: dict[str, jax.Array], counts: dict[str, jax.Array], step: jax.Array
    ) -> dict[str, jax.Array]:
        """The attention penalty and the share of own words, where they are on."""
        found = {}
        if self.attention_penalty:
            found["attention_penalty"] = sums["attention_penalty"] / counts["captions"]
        if self.own_words is not None:
            found["own_words"] = self.own_words(step)
        return found

    def _draws(
        self,
        aux: dict[str, jax.Array],
        losses: TokenLosses,
        batch: Batch,
        baseline: jax.Array,
    ) -> jax.Array:
        """A sum whose gradient is that of hard attention's draws (Williams 1992; SAT equation 11).

        A location earns the log-probability of the tokens from its own on: earlier ones do not
        depend on it, and would only add noise.
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
    """x at the batch's places, packed or not, as [B, C, T, ...]."""
    if "packing" not in batch:
        return x
    captions, length = batch["tokens"].shape[1], batch["tokens"].shape[2] - 1
    return scatter_packed(x, batch["packing"], captions, length)


def attention_penalty(attention: jax.Array, batch: Batch) -> jax.Array:
    """Sum over captions of the mean over [N, P] of (1 - what a position was given in all) ** 2.

    `attention` is [B, C, T, N, P], or packed; padding gives nothing.
    """
    _, real = targets_of(batch)
    given = _by_caption(attention * real[..., None, None], batch).sum(axis=2)
    there = batch["lengths"] > 0
    return jnp.where(there, ((1 - given) ** 2).mean(axis=(-2, -1)), 0.0).sum()


PART = CrossEntropy
