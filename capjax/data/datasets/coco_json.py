"""COCO's own caption files, captions_train*.json and captions_val*.json (Chen et al. 2015).

They have a list of images and a list of captions, each with the id of its image.
"""

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from capjax.data.dataset import FilesDataset
from capjax.data.files_source import FilesSource
from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import LayoutError, check_folder, first_few, member, read_json
from capjax.parts.types import CountOrZero, Seed

_FILES = {"train": "captions_train2014.json", "validation": "captions_val2014.json"}
_SPLITS = tuple(_FILES)


class _Image(NamedTuple):
    id: int | str
    path: str


class _Annotation(NamedTuple):
    id: int | str
    image_id: int | str
    caption: str


@dataclasses.dataclass(frozen=True)
class CocoJson(FilesDataset):
    """COCO's two caption files, or a random sample of the train file.

    A sample is drawn as in small studies on COCO: the first 80 % of the draw are train, the rest is
    validation. It does not depend on the order of the file. In a draw by captions an image has only
    its drawn captions, and can be in both splits; the source's `selection` has the number of such
    images.

    Attributes:
      train_file: captions_train*.json.
      train_root: folder of its images.
      validation_file: captions_val*.json; not read when a sample is drawn.
      validation_root: folder of its images.
      sample: captions or images to draw from the train file for both splits together; 0 uses both
        whole files.
      sample_by: the unit of the draw.
      sample_seed: seed of the draw.
    """

    train_file: str = ""
    train_root: str = ""
    validation_file: str = ""
    validation_root: str = ""
    sample: CountOrZero = 0
    sample_by: Literal["captions", "images"] = "captions"
    sample_seed: Seed = 0

    may_change = (
        *FilesDataset.may_change,
        "train_file",
        "train_root",
        "validation_file",
        "validation_root",
    )

    def open(self, split: str) -> FilesSource:
        """Opens one split; an image's id is the file's.

        Args:
          split: "train" or "validation".

        Raises:
          DataError: a file is missing or not in COCO's layout, there is no such split, or `sample`
            is too large or too small.
        """
        if split not in _SPLITS:
            raise DataError(
                f"COCO's caption files make the splits {' and '.join(_SPLITS)}, not {split!r}"
            )
        part = "train" if self.sample else split
        file, root = self.path(f"{part}_file"), self.path(f"{part}_root")
        name, selection = _stem(file), {}
        if self.sample:
            images, annotations, selection = self._draw(file, root, split)
            name = f"{name}, {self.sample} {self.sample_by}"
        else:
            images, annotations = _read(file, root, split)
        examples = _examples(images, annotations)
        return self.files(f"{name}/{split}", root, examples, selection=selection)

    def _draw(
        self, file: str, root: str, split: str
    ) -> tuple[list[_Image], list[_Annotation], dict[str, Any]]:
        """Draws the images and captions of a split, and records them as a `selection`."""
        count, by, seed = self.sample, self.sample_by, self.sample_seed
        if by not in ("captions", "images"):
            raise DataError(f'config.dataset.sample_by must be "captions" or "images", not {by!r}')
        if seed < 0:
            raise DataError(f"config.dataset.sample_seed must be at least 0, not {seed}")
        images, annotations = map(_by_id, _read(file, root, "train"))
        pool = annotations if by == "captions" else images
        if not 2 <= count <= len(pool):
            raise DataError(
                f"config.dataset.sample is {count}, but {file} has {len(pool)} {by}: "
                "draw at least 2 and at most all of them"
            )
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(pool))[:count]
        drawn = [pool[i] for i in order]
        parts = dict(zip(_SPLITS, (drawn[: count * 4 // 5], drawn[count * 4 // 5 :]), strict=True))
        part, shared = parts[split], 0
        if by == "captions":
            ids = {n: dict.fromkeys(row.image_id for row in rows) for n, rows in parts.items()}
            shared = len(ids["train"].keys() & ids["validation"].keys())
            of_id = {image.id: image for image in images}
            images, annotations = [of_id[image_id] for image_id in ids[split]], part
        else:
            images = part
        selection = {
            "by": by,
            "count": count,
            "seed": seed,
            "file": os.path.basename(file),
            "annotation_ids" if by == "captions" else "image_ids": [row.id for row in part],
            "shares_images": shared,
            "note": _note(by, shared),
        }
        return images, annotations, selection


PART = CocoJson


def _note(by: str, shared: int) -> str:
    if by == "images":
        return "drawn by image: no image lies in both splits"
    unseen = ", so validation scores are not those of unseen images" if shared else ""
    return f"drawn by caption: {shared} images lie in both splits{unseen}"


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _by_id(rows: Sequence[Any]) -> list[Any]:
    # The order of integer ids, as text because a file can mix both types.
    return sorted(rows, key=lambda row: (len(str(row.id)), str(row.id)))


def _read(file: str, root: str, split: str) -> tuple[list[_Image], list[_Annotation]]:
    """Reads the images and captions of a file, in its order, and checks their ids.

    Raises:
      DataError: see `CocoJson.open`.
    """
    what = f"COCO's caption file, such as {_FILES[split]}"
    content = read_json(file, field=f"{split}_file", what=what)
    check_folder(root, field=f"{split}_root", what="the folder of the file's images")
    id_kind = (int, str)
    try:
        images = [
            _Image(member(row, "id", id_kind, where), member(row, "file_name", str, where))
            for row, where in _rows(content, "images")
        ]
        annotations = [
            _Annotation(
                member(row, "id", id_kind, where),
                member(row, "image_id", id_kind, where),
                member(row, "caption", str, where),
            )
            for row, where in _rows(content, "annotations")
        ]
        _check_ids(images, annotations)
    except LayoutError as error:
        raise DataError(f"{file}: {error}; config.dataset.{split}_file should be {what}") from error
    return images, annotations


def _rows(content: Any, key: str) -> Iterable[tuple[Any, str]]:
    rows = member(content, key, list, "the file")
    return ((row, f"{key}[{i}]") for i, row in enumerate(rows))


def _check_ids(images: Sequence[_Image], annotations: Sequence[_Annotation]) -> None:
    """Raises LayoutError for a repeated id or an annotation without an image."""
    for what, rows in (("images", images), ("annotations", annotations)):
        # As text, because examples have text ids.
        counts = Counter(str(row.id) for row in rows)
        if twice := [row_id for row_id, count in counts.items() if count > 1]:
            raise LayoutError(
                f"{len(twice)} ids of {what} occur more than once: {first_few(twice)}"
            )
    known = {image.id for image in images}
    if lost := [row.id for row in annotations if row.image_id not in known]:
        raise LayoutError(
            f"{len(lost)} annotations are of images that the file does not have: {first_few(lost)}"
        )


def _examples(images: Sequence[_Image], annotations: Sequence[_Annotation]) -> list[Example]:
    captions = defaultdict(list)
    for row in annotations:
        captions[row.image_id].append(row.caption)
    return [Example(path, str(id_), tuple(captions[id_])) for id_, path in images]
