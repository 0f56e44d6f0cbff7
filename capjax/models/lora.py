"""Low-rank adaptation of a captioner's dense layers (LoRA, Hu et al. 2021).

The kernel W [D, width] of a projection stays as it is, and A B alpha / rank is added to it, with A
[D, rank] and B [rank, width]. An adapter lies beside the kernel of its layer, by the projection's
name. A layer that is several projections at once has one for each that is adapted:

    {"kernel": ..., "bias": ..., "lora": {"key": {"a": A, "b": B}, "value": {"a": A, "b": B}}}

Shapes: see docs/architecture.md.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from capjax.models.layers import Attention, Dropout
from capjax.models.lora_fields import Lora

_ADAPTERS = "lora"
# Uniform in +-1 / sqrt(D), as in the authors' loralib and in PEFT.
_A_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def projections_of(layer: str) -> tuple[str, ...]:
    """The projections, of equal widths, that a dense layer is, in the order of its outputs."""
    return Attention.joined.get(layer, (layer,))


def is_adapter(name: str) -> bool:
    """True for the name of an adapter's parameter, "decoder/.../query/lora/query/a"."""
    return f"/{_ADAPTERS}/" in name


def adapter_name(layer: str, projection: str) -> str:
    """The name of an adapter, without /a or /b, of a layer such as "decoder/.../key_value"."""
    return f"{layer}/{_ADAPTERS}/{projection}"


def adapted(lora: Lora, layer: str) -> tuple[str, ...]:
    """The adapted projections of a dense layer, "decoder/blocks_0/cross_attention/query"."""
    part, name = layer.partition("/")[0], layer.rpartition("/")[2]
    wanted = {*lora.projections}
    return tuple(p for p in projections_of(name) if wanted & {p, f"{part}/{p}"})


def adapting(lora: Lora | None, *, train: bool) -> contextlib.AbstractContextManager:
    """Dense layers called within have their adapters; with None, nothing is changed.

    Initialising a model within makes the adapters, with B zero. All else is initialised as without.
    """
    if lora is None:
        return contextlib.nullcontext()
    return nn.intercept_methods(functools.partial(_adapt, lora, train))


def _adapt(
    lora: Lora, train: bool, call: Callable, args: tuple, kwargs: dict[str, Any], context: Any
) -> Any:
    """An interceptor of flax: adds the adapters' outputs to a dense layer's."""
    y, layer = call(*args, **kwargs), context.module
    if not isinstance(layer, nn.Dense) or context.method_name != "__call__":
        return y
    names, count = adapted(lora, "/".join(layer.path)), len(projections_of(layer.path[-1]))
    if not names:
        return y
    dtype = layer.dtype or y.dtype
    x = args[0]
    adapters = layer.param(
        _ADAPTERS, _init, names, lora.rank, x.shape[-1], layer.features // count, layer.param_dtype
    )
    x = Dropout(lora.dropout)(x, train=train).astype(dtype)
    parts = jnp.split(y, count, axis=-1)
    for place, name in enumerate(projections_of(layer.path[-1])):
        if name in adapters:
            a, b = (adapters[name][matrix].astype(dtype) for matrix in ("a", "b"))
            parts[place] += (x @ a @ b * lora.scale).astype(y.dtype)
    return jnp.concatenate(parts, axis=-1) if count > 1 else parts[0]


def _init(
    key: jax.Array, names: tuple[str, ...], rank: int, inputs: int, width: int, dtype: Any
) -> dict[str, dict[str, jax.Array]]:
    return {
        name: {
            "a": _A_INIT(one, (inputs, rank), dtype),
            "b": jnp.zeros((rank, width), dtype),
        }
        for name, one in zip(names, jax.random.split(key, len(names)), strict=True)
    }


def merge(variables: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """Adds adapters to the kernels beside them, A B `scale`, and leaves them out.

    The model without adapters computes the same with the result, up to rounding.

    Args:
      variables: of a captioner with adapters of any ranks; NumPy or JAX arrays.
      scale: see `Lora.scale`.
    """
    return {**variables, "params": _merge(variables["params"], "", scale)}


def _merge(tree: Mapping[str, Any], layer: str, scale: float) -> dict[str, Any]:
    found = {
        name: _merge(value, name, scale) if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if name != _ADAPTERS
    }
    if _ADAPTERS in tree:
        names = projections_of(layer)
        parts = np.split(np.asarray(tree["kernel"]), len(names), axis=1)
        for place, name in enumerate(names):
            if adapter := tree[_ADAPTERS].get(name):
                added = np.asarray(adapter["a"]) @ np.asarray(adapter["b"]) * np.float32(scale)
                parts[place] = parts[place] + added
        found["kernel"] = np.concatenate(parts, axis=1)
    return found
