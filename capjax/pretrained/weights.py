"""How named arrays of a file are held against what a model needs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

_LISTED = 8


class WeightsError(ValueError):
    """A weights file that can't be used; the message names it, and says what does not fit."""


def check_fit(
    given: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]], path: str
) -> None:
    """Compares a file's arrays with the shapes that a model wants, by name.

    Args:
      given: the file's arrays.
      wanted: shapes.
      path: of the file, for the message.

    Raises:
      WeightsError: an array is missing, misshapen or left over; the first 8 are named.
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
    if problems:
        more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise WeightsError(f"{path}: does not fit the model: {'; '.join(problems[:_LISTED])}{more}")


def variable_shapes(encoder: nn.Module, image_size: int) -> dict[str, Any]:
    """The variables of an encoder of images of that side, without values.

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
