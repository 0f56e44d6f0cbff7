"""Additive attention (Bahdanau et al. 2015, appendix A.1.2).

Legend: B images, C captions an image, P memory positions, D memory width, H width of the state,
A width of the attention.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

# Sums, in numbers, that a CPU's cache holds: 4 MiB.
_CACHED = 1 << 20


def additive_scores(
    keys: jax.Array, query: jax.Array, score: jax.Array, activation: Literal["tanh", "relu"]
) -> jax.Array:
    """score . activation(key + query): keys [B, P, A], query [B, C, A] -> float32 [B, C, P]."""
    mixed = getattr(nn, activation)(keys[:, None] + query[:, :, None])
    # As a matrix product: the same sum as a fused reduction took ten times as long on CPUs.
    return jnp.einsum("bcpa,a->bcp", mixed, score, preferred_element_type=jnp.float32)


def cached_scores(
    keys: jax.Array, query: jax.Array, score: jax.Array, activation: Literal["tanh", "relu"]
) -> jax.Array:
    """`additive_scores`, on CPUs a few images at a time, so that their sums stay in the cache.

    Of five beams over 196 positions it takes a quarter of the time. Its gradient takes longer.
    """
    image = query.shape[1] * keys.shape[1] * keys.shape[2]
    images = max(_CACHED // image, 1)
    if jax.default_backend() != "cpu" or images >= keys.shape[0]:
        return additive_scores(keys, query, score, activation)

    def one(keys_and_query):
        keys, query = keys_and_query
        return additive_scores(keys[None], query[None], score, activation)[0]

    return jax.lax.map(one, (keys, query), batch_size=images)


class AdditiveAttention(nn.Module):
    """Where a recurrent state looks: softmax of v . activation(W a_p + U h).

    Attributes:
      width: A.
      activation: "tanh" as in the paper, or "relu".
      remat: whether the backward pass computes the sums [B, C, P, A] of a step again. Keeping them
        takes that much memory at each of the steps, and more time on CPUs.
      dtype: of the computation; weights are float32.
    """

    width: int
    activation: Literal["tanh", "relu"] = "tanh"
    remat: bool = True
    dtype: Any = jnp.float32

    def setup(self):
        if self.activation not in ("tanh", "relu"):
            raise ValueError(
                f"attention_activation is {self.activation!r}; it may be 'tanh' or 'relu'"
            )
        self.memory = nn.Dense(self.width, dtype=self.dtype)
        self.state = nn.Dense(self.width, dtype=self.dtype)
        # A bias would add the same to every score, which a softmax does not see.
        init = nn.initializers.normal(self.width**-0.5)
        self.score = self.param("score", init, (self.width,))

    def keys(self, values: jax.Array) -> jax.Array:
        """W a_p of a memory [B, P, D], once an image: [B, P, A]."""
        return self.memory(values)

    def __call__(self, keys: jax.Array, state: jax.Array, *, train: bool) -> jax.Array:
        """Log weights float32 [B, C, P] of a state [B, C, H] on keys [B, P, A]."""
        scores = additive_scores if train else cached_scores
        if train and self.remat:
            scores = jax.checkpoint(additive_scores, static_argnums=3)
        found = scores(keys, self.state(state), self.score.astype(self.dtype), self.activation)
        return jax.nn.log_softmax(found, axis=-1)
