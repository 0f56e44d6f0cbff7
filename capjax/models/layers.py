"""Layers that the encoders and the decoders share: dropout, attention and the feed-forward block.

Legend: B images, Q queries, S keys, D width, H heads, E width of a head.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

# Added to the logit of what must not be seen. Finite, so that a row of nothing else is no NaN.
NEVER = -1e9

# Of kernels, as `nn.Dense` has it: a variance of 1 / inputs.
FAN_IN = nn.initializers.lecun_normal()

# Logits in bfloat16 would tie, and ties decide a search.
float32_dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


def fixed_init(start: Sequence[float] | None):
    """Starts a parameter at given numbers; at zero where there are none."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        del key  # A fixed start, not a random one.
        numbers = np.zeros(shape) if start is None else np.asarray(start)
        return jnp.asarray(numbers.reshape(shape), jnp.float32)

    return init


def with_bans(bias: jax.Array, banned: Sequence[int]) -> jax.Array:
    """An output bias [V] that puts banned tokens out of reach.

    By the bias, since a `where` over all logits is a pass over memory each way. Next to -1e9 a
    float32 forgets any logit of a model.
    """
    mask = np.zeros(bias.shape, bool)
    mask[list(banned)] = True
    return jnp.where(mask, NEVER, bias)


def check_activation(name: str) -> None:
    """Raises ValueError for a name that is no function of numbers, of any shape, in flax.linen."""
    array = jax.ShapeDtypeStruct((2,), jnp.float32)
    try:
        if jax.eval_shape(getattr(nn, name), array) == array:
            return
    except (AttributeError, TypeError, ValueError):  # No function, or one of something else.
        pass
    raise ValueError(f"activation={name!r} is no activation of flax.linen")


def check_heads(num_heads: int, width: int) -> None:
    """Raises ValueError where a width can't be cut into so many heads."""
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide width={width}")


def sincos_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """Fixed 2-D positions [h * w, width]: sines and cosines of the column and of the row.

    Follows the 2-D form of MoCo v3 (Chen et al. 2021, section 5): a quarter of the width each
    for the sine and cosine of x and of y, with wavelengths up to 10,000.
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width divisible by 4, and it is {width}")
    rows, columns = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1)
    omega = 10_000.0 ** -(np.arange(width // 4) / max(width // 4 - 1, 1))
    parts = [f(axis * omega) for axis in (columns, rows) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


class GridPositions(nn.Module):
    """Adds to features [B, h * w, D] where they lie: a table that is learned, or sines."""

    kind: Literal["learned", "sincos"]
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "sincos":
            table = jnp.asarray(sincos_positions(self.grid, x.shape[-1]))
        elif self.kind == "learned":
            table = self.param("table", nn.initializers.normal(0.02), x.shape[1:])
        else:
            raise ValueError(f"positions is {self.kind!r}; it may be 'learned' or 'sincos'")
        return x + table.astype(x.dtype)


class Dropout(nn.Module):
    """Inverted dropout whose mask costs one byte of random bits an element, not four.

    Drawing 32 bits an element made dropout a fifth of a training step on CPUs. The rate is
    rounded to a 256th (0.1 becomes 26/256) and survivors are scaled by the exact inverse.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dropped = round(self.rate * 256)
        if not train or dropped == 0:
            return x
        words = -(-x.size // 4)
        bits = jax.random.bits(self.make_rng("dropout"), (words,), jnp.uint32)
        bits = jax.lax.optimization_barrier(bits)
        lanes = jax.lax.bitcast_convert_type(bits, jnp.uint8).reshape(-1)[: x.size]
        keep = lanes.reshape(x.shape) >= dropped
        return jnp.where(keep, x * (256 / (256 - dropped)), 0).astype(x.dtype)


def attention_weights(query: jax.Array, key: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Scaled dot-product attention weights (Vaswani et al. 2017, section 3.2.1).

    Args:
      query: [..., H, Q, E].
      key: [..., H, S, E].
      mask: bool, broadcastable to [..., H, Q, S], True where a query may look; or None.

    Returns:
      float32 [..., H, Q, S], summing to 1 over S.
    """
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("...qe,...se->...qs", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, NEVER)
    return jax.nn.softmax(scores, axis=-1)


class Attention(nn.Module):
    """Multi-head attention whose keys and values are computed apart from its queries.

    Apart, because what is attended to is often known once for many queries: an image's memory
    for all its captions, or the tokens already decoded. And with the heads before the positions,
    as the matrix products take them: otherwise each query would move them all.

    Attributes:
      num_heads: H.
      width: of the output.
      head_dim: E; by default width / num_heads.
      dropout: rate on the attention weights.
      dtype: of the computation.
      kernel_init: of all kernels but the last projection's.
      out_init: of that.
    """

    num_heads: int
    width: int
    head_dim: int | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    kernel_init: Callable = FAN_IN
    out_init: Callable = FAN_IN

    def setup(self):
        if not self.head_dim and self.width % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide the width {self.width}")
        head_dim = self.head_dim or self.width // self.num_heads
        inner = self.num_heads * head_dim
        self.query = nn.Dense(inner, dtype=self.dtype, kernel_init=self.kernel_init)
        self.key_value = nn.Dense(2 * inner, dtype=self.dtype, kernel_init=self.kernel_init)
        self.out = nn.Dense(self.width, dtype=self.dtype, kernel_init=self.out_init)
        self.drop_weights = Dropout(self.dropout)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [..., H, S, E] of x [..., S, D]."""
        key, value = jnp.split(self.key_value(x), 2, axis=-1)
        return self._heads(key), self._heads(value)

    def _heads(self, x: jax.Array) -> jax.Array:
        return rearrange(x, "... s (h e) -> ... h s e", h=self.num_heads)

    def __call__(
        self,
        x: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Attends from x [..., Q, D]; gives [..., Q, width] and the weights [..., H, Q, S]."""
        weights = attention_weights(self._heads(self.query(x)), key, mask)
        dropped = self.drop_weights(weights, train=train).astype(value.dtype)
        attended = jnp.einsum("...qs,...se->...qe", dropped, value)
        return self.out(rearrange(attended, "... h q e -> ... q (h e)")), weights


class FeedForward(nn.Module):
    """Dense, activation, dense; `hidden` is the inner width."""

    hidden: int
    width: int
    activation: str = "gelu"
    dtype: Any = jnp.float32
    kernel_init: Callable = FAN_IN
    out_init: Callable = FAN_IN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="up")(x)
        x = getattr(nn, self.activation)(x)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=self.out_init, name="down")(x)
