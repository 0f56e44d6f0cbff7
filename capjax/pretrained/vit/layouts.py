"""The names of the tensors of other people's ViTs, and their table of a `ViT`'s parameters.

A layout gives the names, of which `table` makes the table for both directions. The tensors are laid
out as torch has them: a Linear's weight is [out, in], a convolution's [out, in, h, w]. Legend: n
tokens, N positions, D width.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from capjax.models.encoders.vit import ViT
from capjax.pretrained import tables
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.tables import CONVOLUTION, Row, Table, Transform, dense, norm
from capjax.pretrained.weights import blamed, check_depth, variable_shapes

NO_VIT = "its fields and its tensors make no ViT"


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
    """Returns the tensors, or shapes, of the ViT alone, without what stands before all their names.

    Names may start with "vit.", "vision_model." or any other; a text model's or a head's, which do
    not start so, are left out, and with them what the layout leaves out.

    Raises:
      WeightsError: there is none, or several.
    """
    start = tables.find_prefix(tensors, f"{layout.patches}.weight", "ViT", path)
    bare = {n.removeprefix(start): a for n, a in tensors.items() if n.startswith(start)}
    return {name: a for name, a in bare.items() if not name.startswith(layout.left_out)}


def read_fields(
    shapes: Mapping[str, tuple[int, ...]], layout: Layout, path: str
) -> tuple[dict[str, Any], Layout]:
    """Reads the `ViT` fields that shapes show, and the layout with those tokens that there are.

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


def _depth(names: Iterable[str], layout: Layout) -> int:
    """The number of blocks."""
    before, after = map(re.escape, layout.block.split("{}"))
    numbers = (re.match(rf"{before}(\d+){after}", name) for name in names)
    return 1 + max(int(found[1]) for found in numbers if found)


def table(layout: Layout) -> Table:
    """Returns the table of a `ViT`'s parameters; tensors of tokens and positions are [n, D]."""
    block = layout.block
    rows = [
        Row(f"{layout.patches}.weight", "patch_embedding/kernel", _PATCHES),
        Row(f"{layout.patches}.bias", "patch_embedding/bias"),
        *norm(layout.embedding_norm, "embedding_norm"),
        *norm(layout.norm, "norm"),
        *norm(block + layout.norms[0], "block_{}/attention_norm"),
        *norm(block + layout.norms[1], "block_{}/feed_forward_norm"),
        *dense(
            tuple(block + name for name in layout.attention),
            ("block_{}/attention/query", "block_{}/attention/key_value"),
        ),
        *dense(block + layout.out, "block_{}/attention/out"),
        *dense(block + layout.feed_forward[0], "block_{}/up"),
        *dense(block + layout.feed_forward[1], "block_{}/down"),
        Row(block + layout.scales[0], "block_{}/attention_scale"),
        Row(block + layout.scales[1], "block_{}/feed_forward_scale"),
    ]
    if not layout.tokens:
        return [*rows, Row(layout.positions, "positions")]
    tokens = (*layout.tokens, layout.positions)
    return [*rows, Row(tokens, ("prefix_tokens", "positions"), _with_positions(layout.positioned))]


def _write_patches(kernels: tables.Arrays, _: int) -> tables.Arrays:
    inputs, width = kernels[0].shape
    side = math.isqrt(inputs // 3)
    return [kernels[0].reshape(side, side, 3, width).transpose(3, 2, 0, 1)]


# A convolution over patches as a matrix over their pixels.
_PATCHES = Transform(CONVOLUTION.read, _write_patches)


def _with_positions(positioned: int) -> Transform:
    """Tokens, so many of them with a position in the file, to which they are added here."""

    def read(tensors: tables.Arrays, _: tables.Shapes) -> tables.Arrays:
        *tokens, positions = tensors
        tokens = np.concatenate(tokens)
        tokens[:positioned] += positions[:positioned]
        return tokens, positions[positioned:]

    def write(variables: tables.Arrays, count: int) -> tables.Arrays:
        tokens, grid = variables
        xp = grid.__array_namespace__()
        # A token has its position in it, and so that is 0.
        positions = xp.pad(grid, ((positioned, 0), (0, 0)))
        return [*xp.split(tokens, [*range(1, count - 1)]), positions]

    return Transform(read, write)


def shapes_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the shapes of the parameters of `ViT(**fields)`.

    Raises:
      ValueError: there is no such ViT.
    """
    one = variable_shapes(ViT(**{**fields, "depth": 1}), fields["patch_size"])["params"]
    return tables.repeat(one, "block_", fields["depth"])


def to_variables(
    tensors: Mapping[str, np.ndarray], layout: Layout, fields: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Turns tensors into the variables of `ViT(**fields)`.

    Args:
      tensors: of one ViT, from `own_tensors`.
      layout: of their names.
      fields: of the module.
      path: of the file, for the message.

    Returns:
      {"params": ...}, NumPy, float32.

    Raises:
      WeightsError: a tensor is missing, misshapen or left over; it is named as in the file. Or
        there is no such ViT.
    """
    # Files differ in the axes of length 1 before the rows.
    rows = {*layout.tokens, layout.positions}
    with blamed(path, NO_VIT):
        check_depth(fields["depth"], tensors, path)
        given = {
            name: array.reshape(-1, array.shape[-1]) if name in rows and array.size else array
            for name, array in tensors.items()
        }
        return {"params": tables.read(table(layout), given, shapes_of(fields), path)}
