"""The contract of a dataset, and the config fields that all datasets have.

A dataset is a frozen dataclass. Its fields are its own fields of a config's `dataset` section, and
`open` gives a split of it. capjax's datasets are files of `capjax/data/datasets`. One of a user's:

    @dataclasses.dataclass(frozen=True)
    class Drawings(Dataset):
        # Folders train/ and validation/; a_red_house.png is captioned "a red house".
        root: str = ""

        def open(self, split):
            folder = os.path.join(self.path("root"), split)
            check_folder(folder, field="root", what="the folder of train/ and validation/")
            captions = {name: name[:-4].replace("_", " ") for name in sorted(os.listdir(folder))}
            examples = [Example(name, name, (text,)) for name, text in captions.items()]
            return FilesSource(f"drawings/{split}", folder, examples)

    DATASETS.register("drawings", Drawings)

A config then has `dataset.name = "drawings"` and `dataset.root`.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from capjax.data.augment import CropArea
from capjax.data.images import Interpolation
from capjax.data.source import Source
from capjax.files.errors import DataError
from capjax.parts.types import Count, CountOrZero, Length, Side, SideOrZero

# (captions, references), both by image id -> values by the metric's name.
Scorer = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], dict[str, float]]
# Captions by image id -> values by image id, by the metric's name.
ImageScorer = Callable[[Mapping[str, str]], dict[str, dict[str, float]]]


class Dataset:
    """What all datasets share; each is a frozen dataclass of its own config fields.

    Attributes:
      metrics: names of the metrics that its captions have beside the COCO scores.
      scorers: functions that give these metrics of a split.
      image_scorers: functions that give some of them for each image.
    """

    metrics: ClassVar[tuple[str, ...]] = ()
    scorers: ClassVar[tuple[Scorer, ...]] = ()
    image_scorers: ClassVar[tuple[ImageScorer, ...]] = ()

    def open(self, split: str) -> Source:
        """One split, prepared where it is not.

        Args:
          split: "train", "validation" or "test", or another that the dataset has.

        Raises:
          DataError: it is not there or can't be used; the message says what would work.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method open(split)")

    def path(self, field: str) -> str:
        """The path that a field must give, "~" expanded.

        Raises:
          DataError: the field is empty.
        """
        if not (path := getattr(self, field)):
            raise DataError(
                f"config.dataset.{field} is empty; give the path: --config.dataset.{field}=PATH"
            )
        return os.path.expanduser(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilesDataset(Dataset):
    """A dataset of a user's image files, each of which is decoded once before it is used.

    Its sources have a method `without(image_ids)`, as `capjax.data.files_source.FilesSource`.

    Attributes:
      bad_images: "refuse" to start where a file can't be read as an image, or "skip" it.
      allow_outside: whether an image may lie outside of its root: by an absolute path, by "..", or
        by a link.
    """

    bad_images: Literal["refuse", "skip"] = "refuse"
    allow_outside: bool = False


@dataclasses.dataclass(frozen=True)
class CommonFields:
    """The config fields that every dataset has beside its name; `configs/base.py` explains them."""

    cache_dir: str = "~/.cache/capjax"
    image_size: Side = 64
    resize_to: SideOrZero = 0
    keep_aspect: bool = False
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    round_crop: bool = False
    crop_area: CropArea = 1.0
    flip: bool = False
    captions_per_image: Count = 5
    max_length: Length = 24
    over_length: Literal["drop", "cut"] = "drop"
    packed: bool = True
    length_bucket: CountOrZero = 8
    num_threads: Count = 4
