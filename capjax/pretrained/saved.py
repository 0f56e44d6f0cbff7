"""An encoder as one `.safetensors` of its own: weights, fields, and how it wants its pixels."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from flax import traverse_util

from capjax.data.resize import Resize
from capjax.files.atomic import write_atomic
from capjax.files.text import parse_json
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.torch_files import read_metadata, read_tensors

_METADATA = "capjax_encoder"


@dataclasses.dataclass(frozen=True)
class About:
    """The description of an encoder in its file, beside the weights.

    Attributes:
      name: of the encoder, as `encoder.name` of a config has it.
      fields: of its module.
      resize: how images become the squares that it sees.
    """

    name: str
    fields: Mapping[str, Any]
    resize: Resize


def save_encoder(path: str | os.PathLike, about: About, variables: Mapping[str, Any]) -> None:
    """Writes the file, whole or not at all.

    Args:
      path: of a `.safetensors` file.
      about: kept as JSON in the file's metadata.
      variables: {"params": ..., "batch_stats": ...}.

    Raises:
      WeightsError: the path does not end in .safetensors, by which it is known again.
    """
    if not os.fspath(path).endswith(".safetensors"):
        raise WeightsError(f"{path}: the file's name must end in .safetensors")
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    metadata = {_METADATA: json.dumps(dataclasses.asdict(about))}
    write_atomic(path, safetensors.numpy.save(arrays, metadata))


def read_about(path: str | os.PathLike) -> About | None:
    """Reads the description of a file's encoder; None if `save_encoder` did not write it.

    Raises:
      WeightsError: it is damaged, or states something else than an encoder.
    """
    path = os.fspath(path)
    if not path.endswith(".safetensors") or not os.path.isfile(path):
        return None
    metadata = read_metadata(path)
    if _METADATA not in metadata:
        return None
    try:
        found = parse_json(metadata[_METADATA])
        return About(str(found["name"]), as_tuples(found["fields"]), Resize(**found["resize"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(
            f"{path}: does not state its encoder's name, fields and resize ({error}); convert it "
            "again: capjax convert"
        ) from error


def read_saved(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the variables of a file of `save_encoder`, NumPy.

    Raises:
      WeightsError: it is damaged.
    """
    return traverse_util.unflatten_dict(read_tensors(path), sep="/")


def as_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields with the lists of JSON and ConfigDict as the module's tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
