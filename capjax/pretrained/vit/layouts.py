"""How the tensors of other people's ViTs are named, and how they become a `ViT`'s variables.

A layout says by which names. The tensors themselves are laid out as torch has them: a Linear's
weight is [out, in], a convolution's [out, in, h, w]. Legend: n tokens, N positions, D width.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from capjax.pretrained.weights import WeightsError, check_fit


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of a ViT's parts; those of a block follow `block`, where {} is its number.

    Attributes:
      tokens: learned positions before the grid, in order; the last has as many rows as are left.
      positioned: so many of those have a position, which the file keeps before the grid's.
      positions: [N, D].
      patches: the patches' convolution.
      embedding_norm: before the first block, where there is one.
      block: what each name of a block starts with.
      norms: before attention and before the feed-forward.
      attention: the projections to queries, keys and values; or one that is all three.
      out: attention's last projection.
      feed_forward: its two projections; a gate comes first in the rows of a gated one's first.
      scales: of the two residuals, [D].
      norm: after the last block.
      left_out: what names of heads and the like start with.
    """

    tokens: tuple[str, ...]
    positioned: int
    positions: str
    patches: str
    embedding_norm: str
    block: str
    norms: tuple[str, str]
    attention: tuple[str, ...]
    out: str
    feed_forward: tuple[str, str]
    scales: tuple[str, str]
    norm: str
    left_out: tuple[str, ...]


def own_tensors(tensors: Mapping[str, Any], layout: Layout, path: str) -> dict[str, Any]:
    """The tensors, or shapes, of the ViT alone, without what stands before all their names.

    Names may start with "vit.", "vision_model." or any other; a text model's or a head's, which do
    not start so, are left out, and with them what the layout leaves out.

    Raises:
      WeightsError: there is none, or several.
    """
    mark = f"{layout.patches}.weight"
    starts = [name.removesuffix(mark) for name in tensors if f".{name}".endswith(f".{mark}")]
    if len(starts) != 1:
        raise WeightsError(
            f"{path}: has {len(starts)} tensors *{mark}, and a file of one ViT has 1; it has "
            f"{', '.join(list(tensors)[:4])}, ..."
        )
    bare = {n.removeprefix(starts[0]): a for n, a in tensors.items() if n.startswith(starts[0])}
    return {name: a for name, a in bare.items() if not name.startswith(layout.left_out)}


def read_fields(
    shapes: Mapping[str, tuple[int, ...]], layout: Layout, path: str
) -> tuple[dict[str, Any], Layout]:
    """The `ViT` fields that shapes show, and the layout with those tokens that there are.

    Args:
      shapes: of one ViT's tensors, from `own_tensors`.
      layout: the names that they may have.
      path: of the file, for the message.

    Raises:
      WeightsError: a tensor is missing that must be there, or the positions fit no square grid.
    """

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if len(shapes.get(name, ())) != axes:
            raise WeightsError(f"{path}: is no ViT of a known kind: no {name} of {axes} axes")
        return tuple(shapes[name])

    width, _, patch, _ = shape(f"{layout.patches}.weight", 4)
    tokens = tuple(name for name in layout.tokens if name in shapes)
    prefix = sum(shape(name, 3)[1] for name in tokens)
    rows = shape(layout.positions, 3)[1]
    # All tokens before the grid may have a position, or the first of them, or none.
    grids = ((n, math.isqrt(max(rows - n, 0))) for n in range(prefix, -1, -1))
    found = [(n, side) for n, side in grids if side and side * side == rows - n]
    if not found:
        raise WeightsError(
            f"{path}: {layout.positions} has {rows} rows, of which {prefix} may belong to tokens "
            "before the grid; the others should fill a square"
        )
    positioned, side = found[0]
    block = layout.block.format(0)
    up, down = (f"{block}{name}.weight" for name in layout.feed_forward)
    hidden = shape(down, 2)[1]
    fields = {
        "patch_size": patch,
        "width": width,
        "depth": _depth(shapes, layout),
        "mlp_dim": hidden,
        "position_grid": (side, side),
        "prefix": prefix,
        "patch_bias": f"{layout.patches}.bias" in shapes,
        "pre_norm": f"{layout.embedding_norm}.weight" in shapes,
        "final_norm": f"{layout.norm}.weight" in shapes,
        "layer_scale": block + layout.scales[0] in shapes,
        "gated": shape(up, 2)[0] == 2 * hidden,
    }
    return fields, dataclasses.replace(layout, tokens=tokens, positioned=positioned)


def check_depth(fields: Mapping[str, Any], names: Collection[str], path: str) -> None:
    """Raises WeightsError for more blocks than a file has tensors, before any is looked for."""
    if fields["depth"] > len(names):
        raise WeightsError(
            f"{path}: has {len(names)} tensors, too few for the {fields['depth']} blocks it states"
        )


def _depth(names: Iterable[str], layout: Layout) -> int:
    """The number of blocks."""
    before, after = map(re.escape, layout.block.split("{}"))
    numbers = (re.match(rf"{before}(\d+){after}", name) for name in names)
    return 1 + max(int(found[1]) for found in numbers if found)


def to_variables(
    tensors: Mapping[str, np.ndarray], layout: Layout, fields: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """The variables of `ViT(**fields)`.

    Args:
      tensors: of one ViT, from `own_tensors`.
      layout: of their names.
      fields: of the module.
      path: of the file, for the message.

    Returns:
      {"params": ...}, NumPy, float32.

    Raises:
      WeightsError: a tensor is missing, misshapen or left over; it is named as in the file.
    """
    check_depth(fields, tensors, path)
    # Files differ in the axes of length 1 before the rows.
    rows = {*layout.tokens, layout.positions}
    given = {
        name: array.reshape(-1, array.shape[-1]) if name in rows and array.size else array
        for name, array in tensors.items()
    }
    check_fit(given, _shapes(layout, fields), path)
    given = {name: np.asarray(array, np.float32) for name, array in given.items()}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": given[f"{name}.weight"], "bias": given[f"{name}.bias"]}

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": given[f"{name}.weight"].T, "bias": given[f"{name}.bias"]}

    def block(number: int) -> dict[str, Any]:
        start, width = layout.block.format(number), fields["width"]
        joined = [
            np.concatenate([given[f"{start}{name}.{part}"] for name in layout.attention])
            for part in ("weight", "bias")
        ]
        (query, keys), (query_bias, keys_bias) = (np.split(array, [width]) for array in joined)
        parts = {
            "attention_norm": norm(start + layout.norms[0]),
            "attention": {
                "query": {"kernel": query.T, "bias": query_bias},
                "key_value": {"kernel": keys.T, "bias": keys_bias},
                "out": dense(start + layout.out),
            },
            "feed_forward_norm": norm(start + layout.norms[1]),
            "up": dense(start + layout.feed_forward[0]),
            "down": dense(start + layout.feed_forward[1]),
        }
        if fields["layer_scale"]:
            parts["attention_scale"], parts["feed_forward_scale"] = (
                given[start + name] for name in layout.scales
            )
        return parts

    before, positions = np.split(given[layout.positions], [layout.positioned])
    patches = given[f"{layout.patches}.weight"].transpose(2, 3, 1, 0)
    params: dict[str, Any] = {
        "patch_embedding": {"kernel": patches.reshape(-1, fields["width"])},
        "positions": positions,
        **{f"block_{number}": block(number) for number in range(fields["depth"])},
    }
    if fields["patch_bias"]:
        params["patch_embedding"]["bias"] = given[f"{layout.patches}.bias"]
    if fields["prefix"]:
        tokens = np.concatenate([given[name] for name in layout.tokens])
        tokens[: layout.positioned] += before
        params["prefix_tokens"] = tokens
    if fields["pre_norm"]:
        params["embedding_norm"] = norm(layout.embedding_norm)
    if fields["final_norm"]:
        params["norm"] = norm(layout.norm)
    return {"params": params}


def to_tensors(
    params: Mapping[str, Any], layout: Layout, fields: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The tensors of a ViT, the inverse of `to_variables`.

    Args:
      params: of `ViT(**fields)`.
      layout: of their names.
      fields: of the module.

    Returns:
      float32; tokens and positions are [n, D]. A token has its position in it, and so that is 0.
    """
    tensors: dict[str, np.ndarray] = {}

    def norm(name: str, given: Mapping[str, np.ndarray]) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = given["scale"], given["bias"]

    def dense(name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = kernel.T, bias

    width, patch = fields["width"], fields["patch_size"]
    patches = params["patch_embedding"]["kernel"].reshape(patch, patch, 3, width)
    tensors[f"{layout.patches}.weight"] = patches.transpose(3, 2, 0, 1)
    if fields["patch_bias"]:
        tensors[f"{layout.patches}.bias"] = params["patch_embedding"]["bias"]
    tensors[layout.positions] = np.pad(params["positions"], ((layout.positioned, 0), (0, 0)))
    if fields["prefix"]:
        tokens = np.split(params["prefix_tokens"], range(1, len(layout.tokens)))
        tensors |= dict(zip(layout.tokens, tokens, strict=True))
    if fields["pre_norm"]:
        norm(layout.embedding_norm, params["embedding_norm"])
    if fields["final_norm"]:
        norm(layout.norm, params["norm"])
    for number in range(fields["depth"]):
        start, block = layout.block.format(number), params[f"block_{number}"]
        attention = block["attention"]
        kernels, biases = (
            np.split(
                np.concatenate([attention[part][name] for part in ("query", "key_value")], -1),
                len(layout.attention),
                axis=-1,
            )
            for name in ("kernel", "bias")
        )
        for name, kernel, bias in zip(layout.attention, kernels, biases, strict=True):
            dense(start + name, kernel, bias)
        dense(start + layout.out, **attention["out"])
        for name, given in zip(layout.norms, ("attention", "feed_forward"), strict=True):
            norm(start + name, block[f"{given}_norm"])
        for name, given in zip(layout.feed_forward, ("up", "down"), strict=True):
            dense(start + name, **block[given])
        if fields["layer_scale"]:
            for name, given in zip(layout.scales, ("attention", "feed_forward"), strict=True):
                tensors[start + name] = block[f"{given}_scale"]
    return {name: np.ascontiguousarray(a, np.float32) for name, a in tensors.items()}


def _shapes(layout: Layout, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that a ViT of these fields has."""
    width, hidden, patch = (fields[name] for name in ("width", "mlp_dim", "patch_size"))
    rows, columns = fields["position_grid"]
    shapes = {
        layout.positions: (layout.positioned + rows * columns, width),
        f"{layout.patches}.weight": (width, 3, patch, patch),
    }
    if fields["patch_bias"]:
        shapes[f"{layout.patches}.bias"] = (width,)
    for place, name in enumerate(layout.tokens, start=1):
        left = fields["prefix"] - len(layout.tokens) + 1
        shapes[name] = (left if place == len(layout.tokens) else 1, width)
    norms = [layout.embedding_norm] * fields["pre_norm"] + [layout.norm] * fields["final_norm"]
    for number in range(fields["depth"]):
        start = layout.block.format(number)
        norms += [start + name for name in layout.norms]
        outputs = {
            **dict.fromkeys(layout.attention, (3 * width // len(layout.attention), width)),
            layout.out: (width, width),
            layout.feed_forward[0]: ((1 + fields["gated"]) * hidden, width),
            layout.feed_forward[1]: (width, hidden),
        }
        for name, shape in outputs.items():
            shapes |= {f"{start}{name}.weight": shape, f"{start}{name}.bias": shape[:1]}
        if fields["layer_scale"]:
            shapes |= {start + name: (width,) for name in layout.scales}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes
