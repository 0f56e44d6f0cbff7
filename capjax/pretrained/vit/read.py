"""Published weights of ViTs, whatever their format, for `capjax.models.encoders.vit.ViT`.

A source is one of

- a folder with Hugging Face's config.json, or timm's, and weights (`checkpoint_folders`);
- a file of such a folder, or timm's `.safetensors` or `.pth` alone, or Meta's `.pth` of DINOv2;
- a `.npz` of AugReg, vision_transformer or big_vision;
- a `.safetensors` of `capjax convert`;
- the name of a checkpoint on huggingface.co: "organisation/name".

Nothing in them is executed.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from capjax.data.resize import Resize
from capjax.models.encoders.vit import ViT
from capjax.parts.check import fault, fields_of
from capjax.pretrained.checkpoint_folders import (
    folder_and_file,
    read_json,
    read_weights,
    weights_file,
)
from capjax.pretrained.preprocessing_file import HALF, read_preprocessing
from capjax.pretrained.saved import as_tuples, read_about, read_saved
from capjax.pretrained.torch_files import read_shapes
from capjax.pretrained.vit import big_vision, huggingface, timm
from capjax.pretrained.vit.layouts import (
    NO_VIT,
    own_tensors,
    read_fields,
    shapes_of,
    to_variables,
)
from capjax.pretrained.weights import (
    WeightsError,
    blamed,
    check_depth,
    check_variables,
    variable_shapes,
)

# Of `ViT`; its dtype is the computation's and no part of a checkpoint.
FIELDS = tuple(
    field.name for field in dataclasses.fields(ViT) if field.name not in ("dtype", "parent", "name")
)
# No other ViT with layer scale has patches of this size.
_DINOV2_PATCH = 14
_DINOV2 = Resize(224, 256, keep_aspect=True, interpolation="bicubic", round_crop=True)


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """A source that was looked into.

    Attributes:
      path: for messages.
      stated: fields that it states.
      usual: the other fields, as they usually are.
      read: from all fields to the variables.
    """

    path: str
    stated: Mapping[str, Any]
    usual: Mapping[str, Any]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]

    def fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All fields: the stated, then the given, then the usual."""
        given = as_tuples(given)
        unknown = sorted(given.keys() - set(FIELDS))
        if unknown:
            raise WeightsError(f"a ViT has no field {unknown[0]}; it has {', '.join(FIELDS)}")
        wrong = [
            f"encoder.{name} is {given[name]} and {self.path} has {self.stated[name]}"
            for name in FIELDS
            if name in given and name in self.stated and given[name] != self.stated[name]
        ]
        if wrong:
            raise WeightsError("; ".join(wrong))
        known = fields_of(ViT)
        for name in FIELDS:
            if name in self.stated and (message := fault(known[name].type, self.stated[name])):
                raise WeightsError(f"{self.path}: its {name}={self.stated[name]!r} {message}")
        found = {**self.usual, **given, **self.stated}
        return {name: found[name] for name in FIELDS}


def vit_fields(source: str | os.PathLike, **given: Any) -> dict[str, Any]:
    """Reads the fields of the `ViT` that a source holds, all but its dtype.

    Reads no more than it must: of a folder the configs, of a `.safetensors` its header.

    Args:
      source: see the module.
      **given: fields that the source does not state, in place of the usual ones: num_heads, mean,
        std, activation and epsilon of a timm file without a config, mean and std of a `.npz`.

    Raises:
      WeightsError: there is no such source, or it is no ViT, or states another value than given.
    """
    return _look(os.fspath(source), weights=False).fields(given)


def vit_resize(source: str | os.PathLike) -> Resize:
    """Reads the resizing to the squares that a source's ViT was published with.

    By the preprocessing file of its folder, or what a file of `capjax convert` says. Where
    there is none: as DINOv2 is evaluated (github.com/facebookresearch/dinov2, data/transforms.py),
    if it is one; else all of a image at the size that the positions were trained on, for a
    `.npz` without antialias as big_vision resizes (pp/ops_image.py), for others with it.

    Raises:
      WeightsError: there is no such source, or its preprocessing makes no squares.
    """
    source = os.path.expanduser(os.fspath(source))
    if about := read_about(source):
        return about.resize
    folder, _ = folder_and_file(source, weights=False)
    preprocessing = read_preprocessing(folder) if not source.endswith(".npz") else None
    if preprocessing:
        return preprocessing.as_resize()
    fields = vit_fields(source)
    if fields["layer_scale"] and fields["patch_size"] == _DINOV2_PATCH:
        return _DINOV2
    side = fields["position_grid"][0] * fields["patch_size"]
    if source.endswith(".npz"):
        return Resize(side, antialias=False)
    logging.warning(
        "%s has no preprocessing file beside it: taking all of each image at %d pixels; "
        "config.dataset.resize_to, keep_aspect and interpolation make it another way",
        *(source, side),
    )
    return Resize(side)


def load_vit(encoder: ViT, weights: str, image_size: int) -> dict[str, Any]:
    """Reads the variables of an encoder from a source.

    Args:
      encoder: its fields must be those that the source states; what no file states (see
        `vit_fields`) is taken from it.
      weights: the source, see the module.
      image_size: side of the images.

    Returns:
      {"params": ...}, NumPy, float32.

    Raises:
      WeightsError: there are no such weights, or they are another network's; says which fields
        differ.
      ValueError: the image is no whole number of patches.
    """
    # Raises where the images do not suit it, whatever its depth.
    variable_shapes(encoder.clone(depth=1), image_size)
    checkpoint = _look(weights, weights=True)
    fields = checkpoint.fields({name: getattr(encoder, name) for name in FIELDS})
    for name, value in checkpoint.usual.items():
        if fields[name] != value and name not in checkpoint.stated:
            logging.warning(
                "%s does not state its %s: taking encoder.%s=%s, where %s would be usual",
                *(checkpoint.path, name, name, fields[name], value),
            )
    return checkpoint.read(fields)


def _look(source: str, *, weights: bool) -> _Checkpoint:
    """Looks into a source; `weights` says whether they will be read."""
    folder, file = folder_and_file(source, weights=weights)
    if file:
        return _look_into_file(file)
    # timm's config says less than the shapes of its weights.
    if not weights and "architecture" in read_json(os.path.join(folder, "config.json")):
        folder, _ = folder_and_file(source, weights=True)
    return _look_into_folder(folder, None)


def _look_into_file(path: str) -> _Checkpoint:
    if path.endswith(".npz"):
        tensors, stated, layout = big_vision.read_npz(path)
        return _Checkpoint(path, stated, HALF, lambda f: to_variables(tensors, layout, f, path))
    if about := read_about(path):
        if about.name != "vit" or sorted(about.fields) != sorted(FIELDS):
            raise WeightsError(
                f"{path}: is a {about.name} with the fields {', '.join(about.fields)}, and a ViT "
                f"has {', '.join(FIELDS)}"
            )
        return _Checkpoint(path, about.fields, {}, lambda f: _read_own(path, f))
    if os.path.isfile(os.path.join(os.path.dirname(path), "config.json")):
        return _look_into_folder(os.path.dirname(path), path)
    return _look_into_timm(path, {})


def _look_into_folder(folder: str, path: str | None) -> _Checkpoint:
    """A folder with a config.json; `path` is the file of it that was asked for, if one was."""
    at = os.path.join(folder, "config.json")
    config = read_json(at)
    if "architecture" in config:
        return _look_into_timm(path or weights_file(folder), config)
    with blamed(at, "states no ViT"):
        stated, layout = huggingface.read_config(config, at)
    pixels = {name: stated.pop(name) for name in ("mean", "std")}
    preprocessing = read_preprocessing(folder)
    if preprocessing:
        stated |= {"mean": preprocessing.mean, "std": preprocessing.std}

    def read(fields: Mapping[str, Any]) -> dict[str, Any]:
        file = path or weights_file(folder)
        return to_variables(own_tensors(read_weights(file), layout, file), layout, fields, file)

    return _Checkpoint(at, stated, pixels, read)


def _look_into_timm(path: str, config: Mapping[str, Any]) -> _Checkpoint:
    def own(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return own_tensors(timm.timm_names(tensors), timm.TIMM, path)

    with blamed(path, NO_VIT):
        fields, layout = read_fields(own(read_shapes(path)), timm.TIMM, path)
        name = config.get("architecture") or os.path.basename(path)
        stated, usual = timm.usual_fields(fields, name, config)
    return _Checkpoint(
        path,
        {**fields, **stated},
        usual,
        lambda f: to_variables(own(read_weights(path)), layout, f, path),
    )


def _read_own(path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    variables = read_saved(path)
    with blamed(path, NO_VIT):
        check_depth(fields["depth"], read_shapes(path), path)
        check_variables(variables, {"params": shapes_of(fields)}, path)
    return variables
