"""How a published checkpoint wants its pixels: the preprocessor's file beside it."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

from capjax.data.images import Resize
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.weights import WeightsError, blamed

# Pillow's numbers.
_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Pixels a side: no model takes as many.
_LARGEST = 1 << 14
# Processors of transformers whose size, where it is one number, is the shorter side.
_SHORTER = ("CLIP", "Bit")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the model: resize, crop the centre, normalise.

    Attributes:
      resize: the shorter side, in pixels, with the image's own proportions; or (height, width);
        None leaves it as it is.
      crop: (height, width) that is cut from the centre; None leaves it as it is.
      interpolation: of the resizing, by Pillow's name: "bilinear", "bicubic", ...
      mean: of pixels over 255, by channel, which is taken away.
      std: by which the rest is divided.
      round_crop: see `capjax.data.images.Resize`.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    round_crop: bool = False

    def as_resize(self) -> Resize:
        """What makes the squares that the model sees.

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
                f"its preprocessing resizes to {self.resize} and cuts {self.crop} out, which makes "
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
    """The preprocessing of a checkpoint's folder.

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


def _checked(found: Preprocessing, path: str) -> Preprocessing:
    """Raises WeightsError for numbers that no preprocessing has."""
    sides = [
        side
        for size in (found.resize, found.crop)
        for side in (size if isinstance(size, tuple) else (size,))
        if side is not None
    ]
    if not all(type(side) is int and 1 <= side <= _LARGEST for side in sides):
        raise WeightsError(f"{path}: sizes are {sides}, and may be 1 to {_LARGEST} pixels")
    for name, values in (("mean", found.mean), ("std", found.std)):
        if len(values) != 3 or not all(map(math.isfinite, values)):
            raise WeightsError(f"{path}: {name} is {values}, and may be three numbers")
    if min(found.std) <= 0:
        raise WeightsError(f"{path}: std is {found.std}, and may be three numbers above 0")
    return found


def _read(config: Mapping[str, Any], path: str) -> Preprocessing:
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    resize = crop = None
    if config.get("do_resize", True) and "size" in config:
        resize = _size(config["size"], not kind.startswith(_SHORTER), f"{path}: size")
    if "crop_size" in config and config.get("do_center_crop", True):
        crop = _size(config["crop_size"], True, f"{path}: crop_size")
        if isinstance(crop, int):
            raise WeightsError(f"{path}: crop_size is {config['crop_size']}, and may be a square")
    number = config.get("resample", 3 if kind and not kind.startswith("ViT") else 2)
    if number not in _INTERPOLATIONS:
        raise WeightsError(f"{path}: resample is {number!r}, and may be {[*_INTERPOLATIONS]}")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if config.get("do_normalize", True):
        mean, std = (
            tuple(map(float, config.get(name) or (0.5,) * 3))
            for name in ("image_mean", "image_std")
        )
    # Of pixels over 255, whatever the file multiplies them by.
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    if not math.isclose(255 * factor, 1):
        mean, std = (tuple(x / (255 * factor) for x in values) for values in (mean, std))
    return Preprocessing(resize, crop, _INTERPOLATIONS[number], mean, std)


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
            f"{path}: crop_mode is {mode!r} of {height}x{width}, and may be 'squash', or 'center' "
            "of a square"
        )
    interpolation = config.get("interpolation", "bicubic")
    return Preprocessing(resize, (height, width), interpolation, mean, std, round_crop=True)
