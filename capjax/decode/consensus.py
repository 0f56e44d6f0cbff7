"""Minimum-Bayes-risk choice among candidate captions: the one that agrees most with the others.

Kumar and Byrne 2004, "Minimum Bayes-Risk Decoding for Statistical Machine Translation".

Shapes: see docs/architecture.md; K counts the candidates of an image.
"""

from typing import Any

import jax
import jax.numpy as jnp

from capjax.metrics.reward import Reward


def choose(
    reward: Reward,
    table: Any,
    candidates: jax.Array,
    lengths: jax.Array,
    log_weights: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Chooses the candidate with the highest mean reward against each of the others.

    A caption that is among the candidates several times supports itself, as it should among
    samples. Distinct candidates, such as n-best lists of beam search, may be weighted by their
    probabilities; samples weighted so would have their probability twice.

    Args:
      reward: scores a candidate with another one as its only reference.
      table: what the reward has prepared.
      candidates: int32 [B, K, T], samples or n-best lists.
      lengths: int32 [B, K], tokens with the end token; 0 for no candidate.
      log_weights: float32 [B, K], such as log-probabilities, whose softmax over the others weights
        them; None weights all alike.

    Returns:
      The index of the chosen candidate, int32 [B], the first of equal ones; and the mean reward of
      each, float32 [B, K], -inf for no candidate and 0 for the only one.
    """
    exists = lengths > 0
    if log_weights is None:
        log_weights = jnp.zeros(lengths.shape)

    def score(reference: jax.Array, length: jax.Array) -> jax.Array:
        return reward(table, candidates, lengths, reference[:, None], length[:, None])

    # [B, hypothesis, reference]. What a reward computes of hypotheses alone is computed once.
    rewards = jax.vmap(score, in_axes=1, out_axes=2)(candidates, lengths)
    others = exists[:, None] & ~jnp.eye(lengths.shape[1], dtype=bool)
    # A softmax over the others for each: a probability near 1 leaves none to normalise by.
    shares = jax.nn.softmax(log_weights[:, None], axis=-1, where=others)
    expected = jnp.where(exists, jnp.where(others, shares * rewards, 0).sum(axis=-1), -jnp.inf)
    return expected.argmax(axis=-1).astype(jnp.int32), expected
