"""Checks of a file's named arrays against the shapes of a model."""

import contextlib
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from capjax.pretrained.errors import WeightsError

_LISTED = 8
_NUMBERS = (jnp.floating, jnp.integer, jnp.bool_)
# Weights look like noise and come down to nine tenths; zeros come down to a thousandth.
_MOST_COMPRESSED = 20
# Bytes of a safetensors file's names and shapes; those of the largest models are under 1 MB.
_MOST_NAMES = 16 * 2**20


@contextlib.contextmanager
def blamed(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Raises all errors of reading a file as errors of the file.

    Whoever made the file decides what its readers meet: a wrong kind or number anywhere, or what a
    library makes of a flipped bit. So all errors are taken, and none is hidden: they are the cause.

    Args:
      path: of the file.
      what: says what is wrong with it, "is no HDF5 file, or a damaged one".

    Raises:
      WeightsError: in place of any other error.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(f"{path}: {what} ({reason})") from error


def check_claim(claimed: int, path: str | os.PathLike, most: int = 1) -> None:
    """Refuses a file that unpacks to far more than it holds, before any memory is taken.

    Args:
      claimed: bytes, by what the file says of itself.
      path: of the file.
      most: times the file's own size that they may be.

    Raises:
      WeightsError: they are more.
    """
    size = os.path.getsize(path)
    if claimed > most * size:
        raise WeightsError(
            f"{path}: claims {claimed} bytes of arrays and has {size}: is damaged, or made to fill "
            "the memory; save it again without compression"
        )


def check_names(path: str | os.PathLike) -> None:
    """Refuses a safetensors file of so many names that they fill the memory, before it is opened.

    Raises:
      WeightsError: its header, which has the names, is too long.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    # A longer one than the file is a damage that safetensors reports.
    if _MOST_NAMES < length <= os.path.getsize(path):
        raise WeightsError(
            f"{path}: {length} bytes of names and shapes are more than the {_MOST_NAMES} taken: is "
            "damaged, or made to fill the memory"
        )


def check_zip(path: str | os.PathLike) -> None:
    """`check_claim` of a zip archive, which `.npz` and torch's files are; others pass.

    Raises:
      WeightsError: it claims too much, or is a damaged archive.
    """
    with blamed(path, "is a damaged zip archive"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                claimed = sum(info.file_size for info in archive.infolist())
            check_claim(claimed, path, _MOST_COMPRESSED)


def check_fit(
    given: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], path: str
) -> None:
    """Compares a file's arrays with the shapes that a model wants, by name.

    Args:
      given: the file's arrays.
      wanted: shapes.
      path: of the file, for the message.

    Raises:
      WeightsError: an array is missing, misshapen, left over or not of finite numbers; the first 8
        are named.
    """
    problems = [f"missing {name}" for name in sorted(wanted.keys() - given.keys())]
    problems += [
        f"unexpected {name} {list(given[name].shape)}"
        for name in sorted(given.keys() - wanted.keys())
    ]
    problems += [
        f"{name} is {list(given[name].shape)} and should be {list(wanted[name])}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != tuple(wanted[name])
    ]
    problems += [
        f"{name} holds {given[name].dtype} and should hold numbers"
        for name in sorted(wanted.keys() & given.keys())
        if not any(jnp.issubdtype(given[name].dtype, kind) for kind in _NUMBERS)
    ]
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise WeightsError(f"{path}: does not fit the model: {'; '.join(problems[:_LISTED])}{more}")
    check_finite(given, path)


def check_finite(given: Mapping[str, np.ndarray], path: str) -> None:
    """Refuses arrays with NaN, infinity or a number beyond float32, in which models compute.

    Args:
      given: a file's arrays of numbers; shapes alone pass.
      path: of the file, for the message.

    Raises:
      WeightsError: names the first 8.
    """
    with np.errstate(over="ignore"):
        bad = [
            name
            for name, array in given.items()
            if not isinstance(array, jax.ShapeDtypeStruct)
            and not np.isfinite(np.asarray(array, np.float32)).all()
        ]
    if bad:
        more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
        raise WeightsError(
            f"{path}: numbers of {', '.join(bad[:_LISTED])}{more} are not finite; fetch the file "
            "again"
        )


def check_depth(depth: int, names: Collection[str], path: str) -> None:
    """Raises WeightsError for more blocks than a file has tensors, before any is looked for."""
    if depth > len(names):
        raise WeightsError(
            f"{path}: has {len(names)} tensors, too few for the {depth} blocks it states"
        )


def variable_shapes(encoder: nn.Module, image_size: int) -> dict[str, Any]:
    """Returns the variables of an encoder of images of that side, without values.

    Raises:
      ValueError: the images do not suit the encoder.
    """
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
    return jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), images)


def check_variables(given: Any, like: Any, path: str) -> None:
    """`check_fit` for two trees of variables; `like` may have shapes alone."""

    def leaves(tree: Any) -> dict[str, Any]:
        return {
            jax.tree_util.keystr(at, simple=True, separator="/"): leaf
            for at, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }

    check_fit(leaves(given), {name: leaf.shape for name, leaf in leaves(like).items()}, path)
