"""ViTs of Google's `.npz` files: AugReg's (Steiner et al. 2021) and big_vision's, as SigLIP's.

Arrays are named "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel" by vision_transformer and
AugReg, and "params/img/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel" by big_vision, which
may also stack all blocks in "Transformer/encoderblock".
"""

import dataclasses
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from capjax.pretrained.checkpoint_folders import as_torch
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.vit.layouts import Layout, own_tensors, read_fields
from capjax.pretrained.weights import blamed, check_zip

_STACKED = "Transformer/encoderblock/"
_ATTENTION = "MultiHeadDotProductAttention"
_BIG_VISION = Layout(
    tokens=("cls",),
    positioned=0,
    positions="pos_embedding",
    patches="embedding",
    embedding_norm="",
    block="Transformer.encoderblock_{}.",
    norms=("LayerNorm_0", "LayerNorm_1"),
    attention=tuple(f"{_ATTENTION}_0.{part}" for part in ("query", "key", "value")),
    out=f"{_ATTENTION}_0.out",
    feed_forward=("MlpBlock_0.Dense_0", "MlpBlock_0.Dense_1"),
    scales=("", ""),
    norm="Transformer.encoder_norm",
    left_out=("head.", "pre_logits.", "MAPHead_0."),
)
# The names of the first release count all modules of a block in one.
_FIRST = dataclasses.replace(
    _BIG_VISION,
    positioned=1,
    positions="Transformer.posembed_input.pos_embedding",
    norms=("LayerNorm_0", "LayerNorm_2"),
    attention=tuple(f"{_ATTENTION}_1.{part}" for part in ("query", "key", "value")),
    out=f"{_ATTENTION}_1.out",
    feed_forward=("MlpBlock_3.Dense_0", "MlpBlock_3.Dense_1"),
)
# As the models' code has them.
_STATED = {"activation": "gelu_tanh", "epsilon": 1e-6, "resample": "linear"}


def read_npz(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any], Layout]:
    """Reads the tensors of a file's image tower, as torch has them, `ViT` fields and the layout.

    The fields are all but mean and std, which the file does not state.

    Raises:
      WeightsError: there is no such file, or it is no ViT's.
    """
    path = os.fspath(path)
    arrays = _read_arrays(path)
    with blamed(path, "is not laid out as these files are"):
        arrays = _unstack(arrays)
        tensors = own_tensors(as_torch(arrays), _BIG_VISION, path)
    layout = _FIRST if _FIRST.positions in tensors else _BIG_VISION
    shapes = {name: array.shape for name, array in tensors.items()}
    fields, layout = read_fields(shapes, layout, path)
    first = f"{layout.block.format(0)}{layout.attention[0]}/kernel".replace(".", "/")
    queries = [a for name, a in arrays.items() if f"/{name}".endswith(f"/{first}")]
    if len(queries) != 1 or queries[0].ndim != 3:
        raise WeightsError(f"{path}: should have one array */{first}, by heads")
    return tensors, {**fields, **_STATED, "num_heads": queries[0].shape[1]}, layout


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such weights file")
    check_zip(path)
    what = (
        "is no .npz file, or a damaged one, or holds more than arrays, which this does not execute"
    )
    with blamed(path, what), open(path, "rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy advises to execute it.
            raise ValueError("it is no zip archive")
        file.seek(0)
        found = np.load(file, allow_pickle=False)
        arrays = {name: found[name] for name in found.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it has other files than arrays")
    # NumPy knows no bfloat16, and keeps it as two bytes without a meaning.
    return {
        name: array.view(ml_dtypes.bfloat16) if array.dtype == "V2" else array
        for name, array in arrays.items()
    }


def _unstack(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Blocks that were stacked along a first axis, one by one."""
    found = {}
    for name, array in arrays.items():
        before, stacked, after = name.partition(_STACKED)
        if stacked:
            for number, part in enumerate(array):
                found[f"{before}Transformer/encoderblock_{number}/{after}"] = part
        else:
            found[name] = array
    return found
