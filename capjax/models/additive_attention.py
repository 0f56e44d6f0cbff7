"""Additive attention (Bahdanau et al. 2015, appendix A.1.2).

Shapes: see docs/architecture.md; `width` is that of the attention.
"""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.parallel import platform

# Floats of intermediate sums that fit in a CPU's cache: 4 MiB.
_CACHED = 1 << 20

Activation = Literal["tanh", "relu"]


def additive_scores(
    keys: jax.Array, query: jax.Array, score: jax.Array, activation: Activation
) -> jax.Array:
    """score . activation(key + query): [B, P, width], [B, C, width] -> float32 [B, C, P]."""
    mixed = getattr(nn, activation)(keys[:, None] + query[:, :, None])
    # A matrix product, because the fused reduction took ten times as long on CPUs.
    return jnp.einsum("bcpa,a->bcp", mixed, score, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def scores_by_image(
    keys: jax.Array, query: jax.Array, score: jax.Array, activation: Activation
) -> jax.Array:
    """`additive_scores` for CPUs: maps over a few images at a time, so that sums stay in the cache.

    The backward pass recomputes the sums. With five captions per image and 196 positions, forward
    and backward take half the time.
    """
    image = query.shape[1] * keys.shape[1] * keys.shape[2]

    def one(keys_and_query):
        keys, query = keys_and_query
        return additive_scores(keys[None], query[None], score, activation)[0]

    return jax.lax.map(one, (keys, query), batch_size=max(_CACHED // image, 1))


def _forward(keys, query, score, activation):
    return scores_by_image(keys, query, score, activation), (keys, query, score)


def _backward(activation, saved, gradient):
    keys, query, score = saved

    def one(image):
        key, query, g = image
        mixed = key + query[:, None]
        if activation == "tanh":
            mixed = jnp.tanh(mixed)
            slope = 1 - mixed * mixed
        else:
            slope = (mixed > 0).astype(mixed.dtype)
            mixed = nn.relu(mixed)
        # Without the barrier XLA recomputes them for each of the three sums.
        mixed, slope = jax.lax.optimization_barrier((mixed, slope))
        by_key = jnp.einsum("cp,cpa->pa", g, slope) * score
        by_query = jnp.einsum("cp,cpa->ca", g, slope) * score
        return by_key, by_query, jnp.einsum("cp,cpa->a", g, mixed)

    images = (keys, query, gradient.astype(keys.dtype))
    by_key, by_query, by_score = jax.lax.map(one, images)
    return by_key, by_query, by_score.sum(axis=0)


scores_by_image.defvjp(_forward, _backward)


class AdditiveAttention(nn.Module):
    """Attention of a recurrent state to the memory: softmax over p of v . activation(W a_p + U h).

    Attributes:
      width: of the sums W a_p + U h.
      activation: "tanh" as in the paper, or "relu".
      remat: whether the backward pass recomputes the sums [B, C, P, width] of a step. Keeping them
        takes that much memory per step, and more time on CPUs.
      dtype: of the computation; weights are float32.
    """

    width: int
    activation: Activation = "tanh"
    remat: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        self.memory = nn.Dense(self.width, dtype=self.dtype)
        self.state = nn.Dense(self.width, dtype=self.dtype)
        # No bias: softmax is invariant to a constant added to all scores.
        init = nn.initializers.normal(self.width**-0.5)
        self.score = self.param("score", init, (self.width,))

    def keys(self, values: jax.Array) -> jax.Array:
        """W a_p of a memory [B, P, D], computed once per image: [B, P, width]."""
        return self.memory(values)

    def __call__(self, keys: jax.Array, state: jax.Array) -> jax.Array:
        """Log weights, float32 [B, C, P], of states [B, C, D] on keys [B, P, width]."""
        scores = additive_scores
        # jax.export's symbolic number of images has no parts to map over.
        if self.remat and platform.on_cpu() and isinstance(keys.shape[0], int):
            scores = scores_by_image
        elif self.remat:
            scores = jax.checkpoint(additive_scores, static_argnums=3)
        found = scores(keys, self.state(state), self.score.astype(self.dtype), self.activation)
        return jax.nn.log_softmax(found, axis=-1)
