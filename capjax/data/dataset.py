"""The interface of a dataset, and the config fields that all datasets have.

A dataset is a frozen dataclass. Its fields are the dataset's own fields of a config's `dataset`
section; `open` returns a split. capjax's datasets are the files of `capjax/data/datasets`. An
example of a user's own:

    @dataclasses.dataclass(frozen=True)
    class Drawings(Dataset):
        # Folders train/ and validation/; a_red_house.png is captioned "a red house".
        root: str = ""
        may_change = ("root",)

        def open(self, split):
            folder = os.path.join(self.path("root"), split)
            check_folder(folder, field="root", what="the folder of train/ and validation/")
            captions = {name: name[:-4].replace("_", " ") for name in sorted(os.listdir(folder))}
            examples = [Example(name, name, (text,)) for name, text in captions.items()]
            return FilesSource(f"drawings/{split}", folder, examples)

    DATASETS.register("drawings", Drawings)

A config then has `dataset.name = "drawings"` and `dataset.root`.
"""

import abc
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from capjax.data.files_source import FilesSource
from capjax.data.resize import Interpolation
from capjax.data.source import Example, Source
from capjax.files.errors import DataError
from capjax.parts.types import Count, CountOrZero, Length, PositiveShare, Side, SideOrZero, Threads

# (captions, references), both by image id -> values by the metric's name.
Scorer = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], dict[str, float]]
# Captions by image id -> values by image id, by the metric's name.
ImageScorer = Callable[[Mapping[str, str]], dict[str, dict[str, float]]]


NOVEL = "novel_"
"""Prefix of the kinds of foils that change what training never shows."""


class Foil(NamedTuple):
    """A true and a false caption of an image, of equally many tokens.

    Attributes:
      image_id: the image.
      kind: kind of the false statement, with or without NOVEL; each has its own accuracy.
      reference: the true caption.
      foil: the false one.
    """

    image_id: str
    kind: str
    reference: str
    foil: str


class Dataset(abc.ABC):
    """Base class of datasets; each is a frozen dataclass of its own config fields.

    Attributes:
      may_change: names of its fields that may change when a run is continued, such as paths; the
        images and captions must stay the same.
      metrics: names of the dataset's metrics beside the COCO scores.
      scorers: functions that compute these metrics of a split.
      image_scorers: functions that compute some of them for each image.
      make_foils: image ids -> foils of some of them, which evaluation has the model tell from
        their references; None for none.
    """

    may_change: ClassVar[tuple[str, ...]] = ()
    metrics: ClassVar[tuple[str, ...]] = ()
    scorers: ClassVar[tuple[Scorer, ...]] = ()
    image_scorers: ClassVar[tuple[ImageScorer, ...]] = ()
    make_foils: ClassVar[Callable[[Iterable[str]], list[Foil]] | None] = None

    @abc.abstractmethod
    def open(self, split: str) -> Source:
        """Opens one split, and prepares it where needed.

        Args:
          split: "train", "validation", "test", or another split of the dataset.

        Raises:
          DataError: the split is missing or cannot be used; the message says what would work.
        """

    def path(self, field: str) -> str:
        """The path in a required field, "~" expanded.

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
    """A dataset of a user's image files, which are all decoded once before use.

    Its sources have a method `without(image_ids)`, as `capjax.data.files_source.FilesSource`.

    Attributes:
      bad_images: "refuse" to start where an image is missing, has no caption or cannot be read, or
        "skip" it.
      allow_outside: whether images may lie outside the root: by an absolute path, "..", or a link.
    """

    bad_images: Literal["refuse", "skip"] = "refuse"
    allow_outside: bool = False

    may_change = ("bad_images", "allow_outside")

    def files(self, name: str, root: str, examples: Sequence[Example], **more: Any) -> FilesSource:
        """The source of these examples, opened by the fields above; see `FilesSource`."""
        skip = self.bad_images == "skip"
        return FilesSource(
            name, root, examples, allow_outside=self.allow_outside, skip=skip, **more
        )


@dataclasses.dataclass(frozen=True)
class CommonFields:
    """The config fields of every dataset, explained in `configs/base.py`.

    Attributes:
      may_change: see `Dataset`.
    """

    may_change: ClassVar[tuple[str, ...]] = ("cache_dir", "num_threads")

    cache_dir: str = "~/.cache/capjax"
    image_size: Side = 64
    resize_to: SideOrZero = 0
    keep_aspect: bool = False
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    round_crop: bool = False
    crop_area: PositiveShare = 1.0
    flip: bool = False
    captions_per_image: Count = 5
    max_length: Length = 24
    over_length: Literal["drop", "cut"] = "drop"
    packed: bool = True
    length_bucket: CountOrZero = 8
    num_threads: Threads = 4
