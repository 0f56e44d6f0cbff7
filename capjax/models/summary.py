"""A table of a model's modules, with output shapes and parameter counts."""

import math
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from capjax.models.captioner import Captioner

_DEPTH = 2


def model_summary(
    model: Captioner,
    image_shape: tuple[int, ...],
    captions: int,
    length: int,
    frozen: Collection[str] = (),
) -> str:
    """Table of the modules of the top two levels, in call order.

    Modules of the top level that are named in `frozen` are one row.

    Nothing is computed: shapes come from tracing one image, uint8 of `image_shape`, with
    `captions` captions of `length` tokens.

    Raises:
      ValueError: fields of the model, or a field and the image size, are inconsistent.
    """
    outputs: dict[tuple[str, ...], tuple[str, str]] = {}

    def record(call, args, kwargs, context):
        result = call(*args, **kwargs)
        path = tuple(context.module.path)
        if context.method_name == "__call__" and len(path) <= _DEPTH:
            outputs[path] = (type(context.module).__name__, _shapes(result))
        return result

    def trace(key):
        images = np.zeros((1, *image_shape), np.uint8)
        with nn.intercept_methods(record):
            return model.init(key, images, np.zeros((1, captions, length), np.int32), train=False)

    params = jax.eval_shape(trace, jax.random.key(0))["params"]
    rows = [("module", "type", "output", "parameters")]
    for path, (kind, shapes) in sorted(outputs.items(), key=lambda item: _order(item[0], outputs)):
        whole = path[:1] and path[0] in frozen
        if whole and len(path) > 1:
            continue
        count = _count(params, path)
        name = "  " * (len(path) - 1) + path[-1] if path else "captioner"
        name += " (frozen)" if whole else ""
        if count or len(path) < _DEPTH:
            rows.append((name, kind, shapes, f"{count:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True))][:-1])
        + "  "
        + row[-1].rjust(widths[-1])
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _order(path: tuple[str, ...], outputs: dict) -> tuple:
    """Sort key: parents before children, siblings in call order."""
    calls = list(outputs)
    return tuple(calls.index(path[: depth + 1]) for depth in range(len(path)))


def _shapes(result: Any) -> str:
    leaves = [leaf for leaf in jax.tree.leaves(result) if hasattr(leaf, "shape")]
    return ", ".join("x".join(map(str, leaf.shape)) for leaf in leaves[:1])


def _count(params: Any, path: tuple[str, ...]) -> int:
    for name in path:
        if name not in params:
            return 0
        params = params[name]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
