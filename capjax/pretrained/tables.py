"""Tables that say which tensors of a published model are which variables of ours, and back.

A row names tensors, variables and a transform with its inverse. One table serves both directions:

    TABLE = (
        Row("wte.weight", "tokens/embedding"),
        *norm("h.{}.ln_1", "blocks_{}/norms_0"),
        *dense("h.{}.mlp.c_fc", "blocks_{}/feed_forward/up"),
    )
    params = read(TABLE, tensors, like, path)
    tensors = write(TABLE, params)

{} stands for a number. A row of which the variables are not there says nothing, so that one table
serves models with and without an optional part.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from capjax.pretrained.errors import WeightsError
from capjax.pretrained.weights import check_fit

Arrays = Sequence[np.ndarray]
Shapes = Sequence[tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Transform:
    """The functions that turn the tensors of a row into its variables, and back.

    Attributes:
      read: from the tensors, float32, and the shapes of the variables to the variables.
      write: from the variables and the number of tensors to the tensors; also traced by JAX, for
        shapes.
    """

    read: Callable[[Arrays, Shapes], Arrays]
    write: Callable[[Arrays, int], Arrays]


def joined(
    read: Callable[[np.ndarray], np.ndarray],
    write: Callable[[np.ndarray], np.ndarray],
    axis: int = -1,
) -> Transform:
    """Returns the transform by a function of each tensor, and its inverse.

    Where a row has several tensors or variables, both are the same array, cut along an axis of the
    variables: the tensors into equal parts, as queries, keys and values are.
    """

    def to_variables(tensors: Arrays, shapes: Shapes) -> Arrays:
        cuts = np.cumsum([shape[axis] for shape in shapes])[:-1]
        return np.split(_join([read(tensor) for tensor in tensors], axis), cuts, axis)

    def to_tensors(variables: Arrays, count: int) -> Arrays:
        whole = _join(variables, axis)
        parts = whole.__array_namespace__().split(whole, count, axis)
        return [write(part) for part in parts]

    return Transform(to_variables, to_tensors)


def _join(arrays: Arrays, axis: int) -> np.ndarray:
    """Concatenates arrays of NumPy, or of JAX in a trace; one of them is not copied."""
    if len(arrays) == 1:
        return arrays[0]
    return arrays[0].__array_namespace__().concatenate(arrays, axis)


SAME = joined(lambda a: a, lambda a: a)
# torch's Linear, [out, in].
TRANSPOSED = joined(lambda a: a.T, lambda a: a.T)
# torch's convolution, [out, in, h, w], as [h, w, in, out]; one of 1x1 also as the matrix [in, out].
CONVOLUTION = Transform(
    lambda tensors, shapes: [tensors[0].transpose(2, 3, 1, 0).reshape(shapes[0])],
    lambda kernels, _: [_four_axes(kernels[0]).transpose(3, 2, 0, 1)],
)


def _four_axes(kernel: np.ndarray) -> np.ndarray:
    return kernel[None, None] if kernel.ndim == 2 else kernel


@dataclasses.dataclass(frozen=True)
class Row:
    """Tensors and the variables that they become; one of each, or several."""

    tensors: str | tuple[str, ...]
    variables: str | tuple[str, ...]
    transform: Transform = SAME


Table = Sequence[Row]


def dense(
    tensors: str | tuple[str, ...],
    variables: str | tuple[str, ...],
    transform: Transform = TRANSPOSED,
) -> Table:
    """Returns the rows of a layer with a bias, or of several joined."""

    def named(names: str | tuple[str, ...], part: str) -> tuple[str, ...]:
        return tuple(name + part for name in _all(names))

    return (
        Row(named(tensors, ".weight"), named(variables, "/kernel"), transform),
        Row(named(tensors, ".bias"), named(variables, "/bias")),
    )


def norm(tensors: str, variables: str) -> Table:
    """Returns the rows of a layer norm."""
    return (
        Row(f"{tensors}.weight", f"{variables}/scale"),
        Row(f"{tensors}.bias", f"{variables}/bias"),
    )


def find_prefix(names: Collection[str], mark: str, what: str, path: str) -> str:
    """Returns the common prefix of the names of one model's tensors, such as "vit." or "".

    Args:
      names: of all tensors of a file.
      mark: the name of one that every such model has once.
      what: the kind of model, for the message, as is the path of the file.

    Raises:
      WeightsError: the file has no such model, or several.
    """
    found = [name.removesuffix(mark) for name in names if f".{name}".endswith(f".{mark}")]
    if len(found) != 1:
        raise WeightsError(
            f"{path}: has {len(found)} tensors *{mark}, and a file of one {what} has 1; it has "
            f"{', '.join(list(names)[:4])}, ..."
        )
    return found[0]


def shapes(table: Table, like: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors of a model whose variables have the shapes of `like`."""
    tensors = jax.eval_shape(functools.partial(write, table), dict(like))
    return {name: tensor.shape for name, tensor in tensors.items()}


def read(
    table: Table,
    tensors: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    path: str,
    prefix: str = "",
) -> dict[str, Any]:
    """Turns the tensors of a file into variables.

    Args:
      table: has a row for each variable.
      tensors: those of the model, and no others.
      like: the tree of variables; shapes are enough.
      path: of the file, for the message.
      prefix: before the names of all tensors.

    Returns:
      A tree as `like`, NumPy, float32.

    Raises:
      WeightsError: a tensor is missing, misshapen or left over; it is named as in the file.
    """
    sizes = shapes(table, like)
    check_fit(tensors, {prefix + name: size for name, size in sizes.items()}, path)
    wanted = traverse_util.flatten_dict(dict(like), sep="/")
    found = {}
    for theirs, ours, transform in _matches(table, wanted):
        arrays = [np.asarray(tensors[prefix + name], np.float32) for name in theirs]
        arrays = transform.read(arrays, [wanted[name].shape for name in ours])
        found |= zip(ours, arrays, strict=True)
    return traverse_util.unflatten_dict(found, sep="/")


def write(table: Table, variables: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Turns a tree of variables into tensors, the inverse of `read`."""
    given = traverse_util.flatten_dict(dict(variables), sep="/")
    found = {}
    for theirs, ours, transform in _matches(table, given):
        arrays = transform.write([given[name] for name in ours], len(theirs))
        found |= zip((prefix + name for name in theirs), arrays, strict=True)
    return found


def layers(
    table: Table, variables: Collection[str], prefix: str = ""
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yields the names of dense layers, of a row with a matrix: theirs and ours.

    Args:
      table: with a row for each of `variables`.
      variables: the names of all of a model's.
      prefix: before the names of all tensors.
    """
    for theirs, ours, transform in _matches(table, variables):
        if ours[0].endswith("/kernel") and transform in (SAME, TRANSPOSED):
            yield (
                tuple(prefix + name.removesuffix(".weight") for name in theirs),
                tuple(name.removesuffix("/kernel") for name in ours),
            )


def repeat(like: Mapping[str, Any], name: str, count: int) -> dict[str, Any]:
    """Returns a tree with `count` blocks in place of its first, called `name` and 0.

    All blocks of a model are alike, and tracing one is faster than tracing all.
    """
    rest = dict(like)
    block = rest.pop(f"{name}0")
    return rest | {f"{name}{number}": block for number in range(count)}


def _matches(
    table: Table, variables: Collection[str]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Transform]]:
    """Yields the names and the transform of each row whose variables there are.

    Raises:
      ValueError: a variable has no row.
    """
    left = {*variables}
    for row in table:
        theirs, ours = _all(row.tensors), _all(row.variables)
        pattern = re.compile(re.escape(ours[0]).replace(r"\{\}", r"(\d+)"))
        for match in filter(None, map(pattern.fullmatch, variables)):
            names = [
                tuple(name.format(*match.groups()) for name in group) for group in (theirs, ours)
            ]
            left -= {*names[1]}
            yield *names, row.transform
    if left:
        raise ValueError(f"no tensor is {min(left)}")


def _all(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
