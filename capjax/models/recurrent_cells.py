"""LSTM and GRU cells with two inputs: an embedded token and a context.

`word_part`, the projection of the token, is computed for all tokens of all captions at once,
outside the time loop.

Shapes: see docs/architecture.md; `width` is that of the state.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

State = dict[str, jax.Array]


def _per_gate_orthogonal(gates: int):
    """Initialiser of an orthogonal kernel [width, width] per gate, concatenated by columns."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        width = shape[0]
        keys = jax.random.split(key, gates)
        kernels = [nn.initializers.orthogonal()(k, (width, width), dtype) for k in keys]
        return jnp.concatenate(kernels, axis=1)

    return init


class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997).

    Gates are in torch's order, i f g o; the forget gate's bias is initialised to 1 (Jozefowicz et
    al. 2015, section 2.2).

    Attributes:
      width: of the state.
      dtype: of the products; the state is float32.
    """

    width: int
    dtype: Any = jnp.float32

    def setup(self):
        size = 4 * self.width
        self.word = nn.Dense(size, dtype=self.dtype, bias_init=self._bias_init)
        self.context = nn.Dense(size, use_bias=False, dtype=self.dtype)
        self.hidden = nn.Dense(
            size, use_bias=False, dtype=self.dtype, kernel_init=_per_gate_orthogonal(4)
        )

    def _bias_init(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del key  # Not random.
        return jnp.zeros(shape, dtype).at[self.width : 2 * self.width].set(1.0)

    def word_part(self, x: jax.Array) -> jax.Array:
        """Gate inputs [..., 4 * width] of an embedded token [..., D]."""
        return self.word(x)

    def __call__(self, state: State, word_part: jax.Array, context: jax.Array | None) -> State:
        """The next {"hidden", "cell"} [..., width]; `context` is [..., D], or None."""
        gates = word_part.astype(jnp.float32) + self.hidden(state["hidden"])
        if context is not None:
            gates += self.context(context)
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        cell = nn.sigmoid(f) * state["cell"] + nn.sigmoid(i) * jnp.tanh(g)
        return {"hidden": nn.sigmoid(o) * jnp.tanh(cell), "cell": cell}


class GRUCell(nn.Module):
    """Gated recurrent unit (Cho et al. 2014).

    Gates are in torch's order, r z n. The reset gate is applied after the product with the state,
    as in cuDNN, torch and Keras.

    Attributes:
      width: of the state.
      dtype: of the products; the state is float32.
    """

    width: int
    dtype: Any = jnp.float32

    def setup(self):
        size = 3 * self.width
        self.word = nn.Dense(size, dtype=self.dtype)
        self.context = nn.Dense(size, use_bias=False, dtype=self.dtype)
        self.hidden = nn.Dense(size, dtype=self.dtype, kernel_init=_per_gate_orthogonal(3))

    def word_part(self, x: jax.Array) -> jax.Array:
        """Gate inputs [..., 3 * width] of an embedded token [..., D]."""
        return self.word(x)

    def __call__(self, state: State, word_part: jax.Array, context: jax.Array | None) -> State:
        """The next {"hidden"} [..., width]; `context` is [..., D], or None."""
        given = word_part.astype(jnp.float32)
        if context is not None:
            given += self.context(context)
        r, z, n = jnp.split(given, 3, axis=-1)
        hidden_r, hidden_z, hidden_n = jnp.split(
            self.hidden(state["hidden"]).astype(jnp.float32), 3, axis=-1
        )
        update = nn.sigmoid(z + hidden_z)
        new = jnp.tanh(n + nn.sigmoid(r + hidden_r) * hidden_n)
        return {"hidden": (1 - update) * new + update * state["hidden"]}
