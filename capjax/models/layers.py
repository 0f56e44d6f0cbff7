"""Layers shared by encoders and decoders: dropout, attention and the feed-forward block.

Shapes: see docs/architecture.md.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from capjax.parts.check import fault
from capjax.parts.types import DropoutRate

# Logit of a masked key or a banned token. Finite, so that softmax of a fully masked row is not NaN.
NEVER = -1e9

# Name of the Gaussian error linear unit itself (Hendrycks and Gimpel 2016).
EXACT = "gelu_exact"

# The default of `nn.Dense`: variance 1 / fan_in.
FAN_IN = nn.initializers.lecun_normal()

# Logits in bfloat16 would often tie, and a search would break the ties arbitrarily.
float32_dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


def fixed_init(start: Sequence[float] | None):
    """Initialiser that returns the numbers of `start`, or zeros for None."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        del key  # Not random.
        numbers = np.zeros(shape) if start is None else np.asarray(start)
        return jnp.asarray(numbers.reshape(shape), jnp.float32)

    return init


def with_bans(bias: jax.Array, banned: Sequence[int]) -> jax.Array:
    """An output bias [V] with -1e9 for banned tokens.

    Masking the bias saves the pass over all logits that a `where` costs in each direction. Added to
    -1e9, any logit of a model is lost to float32 rounding.
    """
    mask = np.zeros(bias.shape, bool)
    mask[list(banned)] = True
    return jnp.where(mask, NEVER, bias)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function of flax.linen, whose "gelu" is the approximation by tanh; or "gelu_exact"."""
    return exact_gelu if name == EXACT else getattr(nn, name)


def exact_gelu(x: jax.Array) -> jax.Array:
    """GELU (Hendrycks and Gimpel 2016) by the error function and not by tanh."""
    if _has_kernel(x.dtype):
        # On an H100 an erf took half of the erfc's time, which keeps digits that bfloat16 has not.
        half = jax.lax.erf(x.astype(jnp.float32) * np.float32(2**-0.5)) / 2
        return x * (0.5 + half).astype(x.dtype)
    return nn.gelu(x, approximate=False)


@functools.cache
def check_activation(name: str) -> None:
    """Raises ValueError unless `activation` has an elementwise function of this name."""
    array = jax.ShapeDtypeStruct((2,), jnp.float32)
    try:
        found = jax.eval_shape(activation(name), array)
        if (found.shape, found.dtype) == (array.shape, array.dtype):
            return
    except (AttributeError, TypeError, ValueError):  # Not a function, or not of one array.
        pass
    raise ValueError(f"activation={name!r} is not an activation of flax.linen")


def check_heads(num_heads: int, width: int) -> None:
    """Raises ValueError unless num_heads divides width."""
    if width % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide width={width}")


def sincos_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """Fixed 2-D position embeddings, float32 [h * w, width].

    As in MoCo v3 (Chen et al. 2021, section 5): a quarter of the width each for the sine and the
    cosine of the column and of the row, with frequencies from 1 down to 1 / 10,000.

    Raises:
      ValueError: width is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"sincos positions need a width divisible by 4, not {width}")
    rows, columns = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1)
    omega = 10_000.0 ** -(np.arange(width // 4) / max(width // 4 - 1, 1))
    parts = [f(axis * omega) for axis in (columns, rows) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


class GridPositions(nn.Module):
    """Adds position embeddings, learned or `sincos_positions`, to features [B, h * w, D]."""

    kind: Literal["learned", "sincos"]
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.kind == "sincos":
            table = jnp.asarray(sincos_positions(self.grid, x.shape[-1]))
        elif self.kind == "learned":
            table = self.param("table", nn.initializers.normal(0.02), x.shape[1:])
        else:
            raise ValueError(f"positions={self.kind!r} must be 'learned' or 'sincos'")
        return x + table.astype(x.dtype)


class Dropout(nn.Module):
    """Inverted dropout with 8 random bits per element.

    With 32 bits per element, dropout took a fifth of a training step on CPUs. The rate is rounded
    to a multiple of 1 / 256 (0.1 becomes 26 / 256), and kept elements are scaled to match.

    Attributes:
      rate: 0, or 1 / 256 to 255 / 256.

    Raises:
      ValueError: in training, the rate is another.
    """

    rate: DropoutRate

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        # Only here, so that runs of earlier versions, which took such a rate, still load.
        if message := fault(DropoutRate, self.rate):
            raise ValueError(f"a dropout rate of {self.rate} is none: it {message}")
        dropped = round(self.rate * 256)
        words = -(-x.size // 4)
        bits = jax.random.bits(self.make_rng("dropout"), (words,), jnp.uint32)
        bits = jax.lax.optimization_barrier(bits)
        lanes = jax.lax.bitcast_convert_type(bits, jnp.uint8).reshape(-1)[: x.size]
        keep = lanes.reshape(x.shape) >= dropped
        return jnp.where(keep, x * (256 / (256 - dropped)), 0).astype(x.dtype)


def attention_weights(query: jax.Array, key: jax.Array, mask: jax.Array | int | None) -> jax.Array:
    """Scaled dot-product attention weights (Vaswani et al. 2017, section 3.2.1).

    Args:
      query: [..., A, Q, E].
      key: [..., A, M, E].
      mask: bool, broadcastable to [..., A, Q, M], True where a query attends to a key; or the
        number of keys that are attended to, the first ones; or None.

    Returns:
      float32 [..., A, Q, M], summing to 1 over M.
    """
    if isinstance(mask, int):
        mask = jnp.arange(key.shape[-2]) < mask
    query = query * query.shape[-1] ** -0.5
    scores = jnp.einsum("...qe,...se->...qs", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, NEVER)
    return jax.nn.softmax(scores, axis=-1)


_fused = contextvars.ContextVar("fused attention", default=False)


@contextlib.contextmanager
def fused_attention(enabled: bool) -> Iterator[None]:
    """Layers traced within are those for NVIDIA GPUs; see `Attention`."""
    before = _fused.set(enabled)
    try:
        yield
    finally:
        _fused.reset(before)


def recomputed(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """An elementwise function whose gradient keeps its input alone.

    XLA otherwise keeps what is in between, in a GELU up to three arrays of its size.
    """
    return jax.checkpoint(function)


def _has_kernel(dtype: Any) -> bool:
    return _fused.get() and dtype == jnp.bfloat16


def pad_positions(x: jax.Array) -> jax.Array:
    """Pads x [B, M, D] to a multiple of 8 positions, if cuDNN's kernel is to attend to them.

    The kernel's gradient needs an even number, and matrix products are fastest with these. Padding
    once is cheaper than padding the queries, keys and values of each layer.
    """
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0))) if _has_kernel(x.dtype) else x


def _cudnn_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, count: int | None
) -> jax.Array:
    """Attends from [B, A, Q, E] to the first `count` of [B, A, M, E] by cuDNN's kernel."""
    queries, keys = query.shape[2], key.shape[2]
    if keys % 2 or queries % 2:  # Its gradient needs even lengths.
        count = count or keys
    lengths = None if count is None else jnp.full(key.shape[0], count, jnp.int32)
    query, key, value = (
        jnp.pad(rearrange(x, "b h s e -> b s h e"), ((0, 0), (0, x.shape[2] % 2), (0, 0), (0, 0)))
        for x in (query, key, value)
    )
    attended = jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return rearrange(attended[:, :queries], "b q h e -> b h q e")


class Attention(nn.Module):
    """Multi-head attention with keys and values computed apart from queries.

    Keys and values are computed once and used for many queries: an image's memory for all its
    captions, or the tokens decoded so far. Heads come before positions, the layout of the matrix
    products, so that no query transposes the keys.

    Within `fused_attention(True)`, which needs an NVIDIA GPU, cuDNN's kernel is used, which keeps
    no weights in memory (Dao et al. 2022, "FlashAttention"), for inputs [B, ...] in bfloat16 where
    no weights are asked for, none are dropped and no key is masked but the last ones: everywhere in
    encoders, and from captions to images.

    Attributes:
      num_heads: A.
      width: of the output.
      head_dim: E; width / num_heads if None.
      dropout: rate on the attention weights.
      dtype: of the computation.
      kernel_init: of the query, key and value kernels.
      out_init: of the output kernel.
    """

    num_heads: int
    width: int
    head_dim: int | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    kernel_init: Callable = FAN_IN
    out_init: Callable = FAN_IN

    # The layer that is several projections, in the order of its outputs.
    joined: ClassVar[Mapping[str, tuple[str, ...]]] = {"key_value": ("key", "value")}

    def setup(self):
        if not self.head_dim and self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide width={self.width}")
        head_dim = self.head_dim or self.width // self.num_heads
        inner = self.num_heads * head_dim
        self.query = nn.Dense(inner, dtype=self.dtype, kernel_init=self.kernel_init)
        self.key_value = nn.Dense(2 * inner, dtype=self.dtype, kernel_init=self.kernel_init)
        self.out = nn.Dense(self.width, dtype=self.dtype, kernel_init=self.out_init)
        self.drop_weights = Dropout(self.dropout)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [..., A, M, E] of x [..., M, D]."""
        params = {} if self.is_initializing() else self.key_value.variables["params"]
        if _has_kernel(self.dtype) and params.keys() == {"kernel", "bias"}:
            # Halves of one product would be copied for the kernel, and so would their gradients.
            kernels, biases = (jnp.split(params[p], 2, axis=-1) for p in ("kernel", "bias"))
            key, value = (
                x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)
                for kernel, bias in zip(kernels, biases, strict=True)
            )
        else:
            key, value = jnp.split(self.key_value(x), 2, axis=-1)
        return self._heads(key), self._heads(value)

    def _heads(self, x: jax.Array) -> jax.Array:
        return rearrange(x, "... s (h e) -> ... h s e", h=self.num_heads)

    def __call__(
        self,
        x: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: jax.Array | int | None = None,
        *,
        train: bool,
        need_weights: bool = True,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attends from x [..., Q, D]; returns [..., Q, width] and weights [..., A, Q, M].

        `mask` is as of `attention_weights`. Without `need_weights` the weights may be None.
        """
        query = self._heads(self.query(x))
        plain = not need_weights and not (train and self.dropout)
        weights = None
        if (
            (mask is None or isinstance(mask, int))
            and plain
            and query.ndim == 4
            and _has_kernel(query.dtype)
        ):
            attended = _cudnn_attention(query, key, value, mask)
        else:
            weights = attention_weights(query, key, mask)
            dropped = self.drop_weights(weights, train=train).astype(value.dtype)
            attended = jnp.einsum("...qs,...se->...qe", dropped, value)
        return self.out(rearrange(attended, "... h q e -> ... q (h e)")), weights

    def with_prefix(
        self,
        x: jax.Array,
        prefix: tuple[jax.Array, jax.Array],
        own: tuple[jax.Array, jax.Array],
        mask: jax.Array,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Attends from captions to an image's keys and to those of the same caption, at once.

        The image's are not repeated for its captions.

        Args:
          x: [B, C, Q, D].
          prefix: the image's keys and values [B, A, P, E].
          own: the captions' keys and values [B, C, A, M, E].
          mask: broadcastable to [B, C, A, Q, M], True where a query attends to a caption's key.
          train: whether weights are dropped.

        Returns:
          [B, C, Q, width], and the weights of the image's keys [B, C, A, Q, P].
        """
        query = self._heads(self.query(x))
        query = query * query.shape[-1] ** -0.5
        image, words = (
            jnp.einsum(equation, query, key, preferred_element_type=jnp.float32)
            for equation, key in (
                ("bcaqe,bape->bcaqp", prefix[0]),
                ("bcaqe,bcame->bcaqm", own[0]),
            )
        )
        scores = jnp.concatenate([image, jnp.where(mask, words, NEVER)], axis=-1)
        weights = jax.nn.softmax(scores, axis=-1)
        dropped = self.drop_weights(weights, train=train).astype(own[1].dtype)
        image, words = jnp.split(dropped, [prefix[0].shape[2]], axis=-1)
        attended = jnp.einsum("bcaqp,bape->bcaqe", image, prefix[1])
        attended += jnp.einsum("bcaqm,bcame->bcaqe", words, own[1])
        out = self.out(rearrange(attended, "b c a q e -> b c q (a e)"))
        return out, weights[..., : prefix[0].shape[2]]


class FeedForward(nn.Module):
    """Dense layer to `hidden`, activation, dense layer to `width`."""

    hidden: int
    width: int
    activation: str = "gelu"
    dtype: Any = jnp.float32
    kernel_init: Callable = FAN_IN
    out_init: Callable = FAN_IN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="up")(x)
        x = recomputed(activation(self.activation))(x)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=self.out_init, name="down")(x)
