"""Dense layers applied to few rows on CPUs, as in each step of a search.

A kernel [D, F] that is transposed before the search, W^T x^T instead of x W, took 0.4 of the time
for 32 rows: see benchmarks/README.md. The sums are the same up to rounding.

Shapes: see docs/architecture.md.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.layers import float32_dot
from capjax.parallel import platform

_TRANSPOSED = "transposed"
_MOST = 48  # With 64 rows both forms took as long.


def by_transposed(x: jax.Array, transposed: jax.Array) -> jax.Array:
    """x [..., D] times the transpose of [F, D], as [..., F], summed in float32."""
    if _are_few(x) and transposed.dtype == x.dtype:
        return _product(x, transposed)
    return jnp.einsum("...d,fd->...f", x, transposed, preferred_element_type=jnp.float32)


def _product(x: jax.Array, transposed: jax.Array) -> jax.Array:
    """The same in the form for few rows."""
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(transposed, rows, (((1,), (1,)), ((), ())))
    # Otherwise XLA exchanges the operands.
    return jax.lax.optimization_barrier(y).T.reshape(*x.shape[:-1], -1)


def few(rows: Any) -> bool:
    """Whether that form is the quicker one here; the number of rows can be symbolic."""
    return platform.on_cpu() and isinstance(rows, int) and 1 < rows <= _MOST


def _are_few(x: jax.Array) -> bool:
    return x.dtype == jnp.float32 and few(x.size // x.shape[-1])


def prepared(variables: Mapping[str, Any], rows: Any = 2) -> Mapping[str, Any]:
    """Variables of a captioner with transposed kernels of its decoder, for its steps.

    They are as they were for many rows, and elsewhere than on CPUs.
    """
    if not few(rows) or _TRANSPOSED in variables:
        return variables
    return {**variables, _TRANSPOSED: _transposed(variables["params"])}


def _transposed(tree: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            if name != "encoder" and (below := _transposed(value)):
                found[name] = below
        elif name == "kernel" and value.ndim == 2 and value.dtype == jnp.float32:
            found[name] = value.T
    return found


def few_rows() -> contextlib.AbstractContextManager:
    """Dense layers called within take the transposed kernels where there are any."""
    return nn.intercept_methods(_multiply)


def _multiply(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
    """An interceptor of flax; a layer with products or numbers of its own is left as it is."""
    layer = context.module
    if (
        type(layer) is not nn.Dense
        or context.method_name != "__call__"
        or not layer.has_variable(_TRANSPOSED, "kernel")
        or not _are_few(args[0])
        or layer.dtype not in (None, jnp.float32)
        or layer.dot_general not in (None, float32_dot)
        or layer.dot_general_cls
        or layer.precision
    ):
        return call(*args, **kwargs)
    y = _product(args[0], layer.get_variable(_TRANSPOSED, "kernel"))
    return y + layer.get_variable("params", "bias") if layer.use_bias else y
