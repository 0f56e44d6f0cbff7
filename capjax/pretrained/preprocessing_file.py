"""The preprocessing of a published checkpoint's images, read from the file beside it."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from capjax.data.resize import Resize
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.errors import ExportError, WeightsError
from capjax.pretrained.weights import blamed

# Pillow's numbers.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# transformers' processors resize by torchvision where it is installed, which of tensors has no
# others that are Pillow's.
_EXPORTED = ("bilinear", "bicubic")
# Of pixels over 255, by channel: what is usual.
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
_HALF, _OF_CLIP = ({f"image_{n}": v for n, v in pixels.items()} for pixels in (HALF, CLIP))
_CLIP = {"size": {"shortest_edge": 224}, "crop_size": 224, "resample": 3, **_OF_CLIP}
# What each processor of transformers takes where its file is silent. One without a crop_size here
# cuts nothing out, whatever its file says; where the size is one number, it is the shorter side if
# it is so here.
_DEFAULTS = {
    "ViT": {"size": 224, "resample": 2, **_HALF},
    "DeiT": {"size": 256, "crop_size": 224, "resample": 3, **_HALF},
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "Blip": {"size": 384, "resample": 3, **_OF_CLIP},
    "Siglip": {"size": 224, "resample": 3, **_HALF},
    "Beit": {"size": 224, "crop_size": 224, "resample": 3, "do_center_crop": False, **_HALF},
}
# Of a file that does not say which processor it is for; the first ones were ViT's.
_UNNAMED = {"crop_size": None, "resample": 2, **_HALF}
# Pixels a side: no model takes as many.
_LARGEST = 1 << 14


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The steps before the model: resize, crop the centre, normalise.

    Attributes:
      resize: the shorter side, in pixels, with the image's own proportions; or (height, width);
        None leaves it as it is.
      crop: (height, width) that is cut from the centre; None leaves it as it is.
      interpolation: of the resizing, by Pillow's name: "bilinear", "bicubic", ...
      mean: of pixels over 255, by channel, which is taken away.
      std: by which the rest is divided.
      round_crop: see `capjax.data.images.Resize`.
      path: of the file that says so, for messages.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    round_crop: bool = False
    path: str = dataclasses.field(default="", compare=False)

    def as_resize(self) -> Resize:
        """Returns the resizing that makes the squares that the model sees.

        Raises:
          WeightsError: they are no squares of one size.
        """
        sides = self.crop or self.resize
        resized = self.resize if isinstance(self.resize, tuple) else (self.resize,) * 2
        if (
            not isinstance(sides, tuple)
            or len({*sides}) > 1
            or None in resized
            or (len({*resized}) > 1)
        ):
            raise WeightsError(
                f"{self.path}: resizes to {self.resize} and cuts {self.crop} out, which makes "
                "no squares of one size"
            )
        return Resize(
            sides[0],
            resized[0] if self.crop else 0,
            keep_aspect=isinstance(self.resize, int),
            interpolation=self.interpolation,
            round_crop=self.round_crop,
        )


def read_preprocessing(directory: str | os.PathLike) -> Preprocessing | None:
    """Reads the preprocessing of a checkpoint's folder.

    Reads preprocessor_config.json of Hugging Face in its old and new spellings, else the image
    part of processor_config.json, else timm's config.json.

    Returns:
      None where there is no such file.

    Raises:
      WeightsError: a file is damaged, or asks for what this has no words for.
    """
    readers = (
        ("preprocessor_config.json", None, _read),
        ("processor_config.json", "image_processor", _read),
        ("config.json", "pretrained_cfg", _read_timm),
    )
    for name, part, read in readers:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            config = read_json(path) if part is None else read_json(path).get(part)
            if not isinstance(config, dict):
                return None
            with blamed(path, "does not say how pixels are prepared"):
                return _checked(read(config, path), path)
    return None


def write_preprocessing(
    resize: Resize, mean: tuple[float, ...], std: tuple[float, ...], whole: str = "ViT"
) -> dict[str, Any]:
    """Returns the preprocessor_config.json of the processor of transformers that does the same.

    Args:
      resize: makes squares of images.
      mean: of pixels over 255, by channel, which is taken away.
      std: by which the rest is divided.
      whole: kind of the processor that cuts nothing off.

    Raises:
      ExportError: there is no such processor; names the field of the dataset.
    """
    allowed = {"antialias": (True,), "round_crop": (False,), "interpolation": _EXPORTED}
    for name, values in allowed.items():
        if (value := getattr(resize, name)) not in values:
            raise ExportError(
                f"config.dataset.{name}={value!r} is in no image processor of transformers; it "
                f"must be {', '.join(map(repr, values))}"
            )
    side = resize.resize_to or resize.size
    numbers = {name: number for number, name in _INTERPOLATIONS.items()}
    cuts = resize.keep_aspect or side != resize.size
    kind = whole
    if cuts:
        kind = "CLIP" if resize.keep_aspect else "DeiT"
    about = {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side} if resize.keep_aspect else {"height": side, "width": side},
        "resample": numbers[resize.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    if cuts:
        crop = {"height": resize.size, "width": resize.size}
        about |= {"do_center_crop": True, "crop_size": crop}
    return about


def _checked(found: Preprocessing, path: str) -> Preprocessing:
    """Raises WeightsError for numbers that no preprocessing has."""
    sides = [
        side
        for size in (found.resize, found.crop)
        for side in (size if isinstance(size, tuple) else (size,))
        if side is not None
    ]
    if not all(type(side) is int and 1 <= side <= _LARGEST for side in sides):
        raise WeightsError(f"{path}: sizes are {sides}, and must be 1 to {_LARGEST} pixels")
    for name, values in (("mean", found.mean), ("std", found.std)):
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise WeightsError(f"{path}: {name} is {values}, and must be three numbers")
    if min(found.std) <= 0:
        raise WeightsError(f"{path}: std is {found.std}, and must be three numbers above 0")
    return found


def _read(config: Mapping[str, Any], path: str) -> Preprocessing:
    defaults = _defaults(config, path)
    square = not isinstance(defaults.get("size"), Mapping)
    given = {**defaults, **{name: value for name, value in config.items() if value is not None}}
    resize = crop = None
    if given.get("do_resize", True) and "size" in given:
        resize = _size(given["size"], square, f"{path}: size")
    cuts = "crop_size" in defaults and given["crop_size"] is not None
    if cuts and given.get("do_center_crop", True):
        crop = _size(given["crop_size"], True, f"{path}: crop_size")
        if isinstance(crop, int):
            raise WeightsError(f"{path}: crop_size is {given['crop_size']}, and must be a square")
    number = given["resample"]
    if number not in _INTERPOLATIONS:
        raise WeightsError(f"{path}: resample is {number!r}, and must be {[*_INTERPOLATIONS]}")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if given.get("do_normalize", True):
        mean, std = (tuple(map(float, given[name])) for name in ("image_mean", "image_std"))
    # Of pixels over 255, whatever the file multiplies them by.
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    if not math.isclose(255 * factor, 1):
        mean, std = (tuple(x / (255 * factor) for x in values) for values in (mean, std))
    return Preprocessing(resize, crop, _INTERPOLATIONS[number], mean, std, path=path)


def _defaults(config: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Returns the defaults of the file's processor."""
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    if not kind:
        return _UNNAMED
    found = re.match(r"([A-Za-z]+?)(ImageProcessor|FeatureExtractor)", str(kind))
    if not found or found[1] not in _DEFAULTS:
        raise WeightsError(
            f"{path}: is for {kind}, and this reads the files of {', '.join(_DEFAULTS)}; give "
            "config.encoder and config.dataset their fields in a config of your own"
        )
    return _DEFAULTS[found[1]]


def _size(size: Any, square: bool, where: str) -> int | tuple[int, int]:
    """A size of any spelling: the shorter side, or (height, width)."""
    if isinstance(size, Mapping) and size.keys() == {"height", "width"}:
        return size["height"], size["width"]
    if isinstance(size, Mapping) and size.keys() == {"shortest_edge"}:
        return size["shortest_edge"]
    if isinstance(size, int):
        return (size, size) if square else size
    if isinstance(size, list | tuple) and len(size) == 2:
        return tuple(size)
    raise WeightsError(f"{where} is {size}, and may have height and width, or shortest_edge")


def _read_timm(config: Mapping[str, Any], path: str) -> Preprocessing:
    """timm resizes to the input over crop_pct and crops (data/transforms_factory.py)."""
    try:
        _, height, width = config["input_size"]
        mean, std = (tuple(map(float, config[name])) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its pretrained_cfg has no size, mean and std") from error
    share = config.get("crop_pct") or 0.875
    mode = config.get("crop_mode") or "center"
    if mode == "squash":
        resize = (math.floor(height / share), math.floor(width / share))
    elif mode == "center" and height == width:
        resize = math.floor(height / share)
    else:
        raise WeightsError(
            f"{path}: crop_mode is {mode!r} of {height}x{width}, and must be 'squash', or 'center' "
            "of a square"
        )
    interpolation = config.get("interpolation", "bicubic")
    return Preprocessing(
        resize, (height, width), interpolation, mean, std, round_crop=True, path=path
    )
