"""COCO's own caption files, captions_train*.json and captions_val*.json (Chen et al. 2015).

They list the images, and apart from them the captions, each with the id of its image.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from capjax.data.files_source import FilesSource
from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import LayoutError, check_folder, first_few, member, read_json

_FILES = {"train": "captions_train2014.json", "validation": "captions_val2014.json"}
_SPLITS = tuple(_FILES)


class _Image(NamedTuple):
    id: int | str
    path: str


class _Annotation(NamedTuple):
    id: int | str
    image_id: int | str
    caption: str


def open_coco_json(file: str, root: str, split: str, *, allow_outside: bool = False) -> FilesSource:
    """A whole caption file as one split; an image's id is the file's.

    Args:
      file: the JSON file.
      root: folder of its images.
      split: "train" or "validation".
      allow_outside: see `FilesSource`.

    Raises:
      DataError: a file is missing or not laid out as COCO's are.
    """
    check_split(split)
    images, annotations = _read(file, root, split)
    examples = _examples(images, annotations)
    return FilesSource(f"{_stem(file)}/{split}", root, examples, allow_outside=allow_outside)


def open_coco_sample(
    file: str,
    root: str,
    split: str,
    *,
    count: int,
    by: str,
    seed: int,
    allow_outside: bool = False,
) -> FilesSource:
    """A part of a random sample of a caption file, as small studies on COCO take it.

    The first 80 % of the draw are train, the rest is validation. The order of the file plays no
    part. Drawn by captions, an image has only those of its captions that were drawn, and one with
    several may lie in both splits; the source's `selection` says how many do.

    Args:
      file: the JSON file.
      root: folder of its images.
      split: "train" or "validation".
      count: captions or images to draw for both splits together.
      by: "captions" or "images".
      seed: of the draw, at least 0.
      allow_outside: see `FilesSource`.

    Raises:
      DataError: a file is missing or not laid out as COCO's are, there is no such split, or the
        draw cannot be made.
    """
    check_split(split)
    if by not in ("captions", "images"):
        raise DataError(f'config.dataset.sample_by must be "captions" or "images", not {by!r}')
    if seed < 0:
        raise DataError(f"config.dataset.sample_seed must be at least 0, not {seed}")
    images, annotations = map(_by_id, _read(file, root, "train"))
    pool = annotations if by == "captions" else images
    if not 2 <= count <= len(pool):
        raise DataError(
            f"config.dataset.sample is {count}, but {file} has {len(pool)} {by}: "
            "draw at least 2 and at most these"
        )
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(pool))[:count]
    drawn = [pool[i] for i in order]
    parts = dict(zip(_SPLITS, (drawn[: count * 4 // 5], drawn[count * 4 // 5 :]), strict=True))
    part, shared = parts[split], 0
    if by == "captions":
        ids = {name: dict.fromkeys(row.image_id for row in rows) for name, rows in parts.items()}
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
    name = f"{_stem(file)}, {count} {by}/{split}"
    return FilesSource(
        name,
        root,
        _examples(images, annotations),
        allow_outside=allow_outside,
        selection=selection,
    )


def _note(by: str, shared: int) -> str:
    if by == "images":
        return "drawn by image: no image lies in both splits"
    unseen = ", so validation scores are not those of unseen images" if shared else ""
    return f"drawn by caption: {shared} images lie in both splits{unseen}"


def check_split(split: str) -> None:
    """Raises DataError for a split that these files do not make."""
    if split not in _SPLITS:
        raise DataError(
            f"COCO's caption files make the splits {' and '.join(_SPLITS)}, not {split!r}"
        )


def _stem(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _by_id(rows: Sequence[Any]) -> list[Any]:
    # By number where ids are numbers; as text, because a file may mix both.
    return sorted(rows, key=lambda row: (len(str(row.id)), str(row.id)))


def _read(file: str, root: str, split: str) -> tuple[list[_Image], list[_Annotation]]:
    """The images and captions of a file, in its order, with ids that are unique and fit.

    Raises:
      DataError: see `open_coco_json`.
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
    """Raises LayoutError where an id occurs twice or an annotation has no image."""
    for what, rows in (("images", images), ("annotations", annotations)):
        # As text, which is what an image's id becomes.
        counts = Counter(str(row.id) for row in rows)
        if twice := [row_id for row_id, count in counts.items() if count > 1]:
            raise LayoutError(
                f"{len(twice)} ids of {what} occur more than once: {first_few(twice)}"
            )
    known = {image.id for image in images}
    if lost := [row.id for row in annotations if row.image_id not in known]:
        raise LayoutError(
            f"{len(lost)} annotations are of images that the file does not list: {first_few(lost)}"
        )


def _examples(images: Sequence[_Image], annotations: Sequence[_Annotation]) -> list[Example]:
    captions = defaultdict(list)
    for row in annotations:
        captions[row.image_id].append(row.caption)
    return [Example(path, str(id_), tuple(captions[id_])) for id_, path in images]
