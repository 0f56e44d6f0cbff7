"""Flickr8k (Hodosh, Young and Hockenmaier 2013) in the layout of its downloads.

The images are in `Images/` or `Flicker8k_Dataset/` (the original's spelling), the captions in
`captions.txt` (CSV) or `Flickr8k.token.txt`, and the official splits in the lists
`Flickr_8k.trainImages.txt`, `Flickr_8k.devImages.txt` and `Flickr_8k.testImages.txt`. The text
files can also be in `Flickr8k_text/`. Without any list, as Kaggle has it, splits of the same sizes
are drawn.
"""

import csv
import dataclasses
import io
import os
from collections import defaultdict
from collections.abc import Iterator

from capjax.data.dataset import FilesDataset
from capjax.data.draw import fraction
from capjax.data.files_source import FilesSource
from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import check_folder, first_few, read_text

_IMAGES = ("Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset")
_TEXTS = ("", "Flickr8k_text")
_TABLE, _TOKENS = _CAPTIONS = ("captions.txt", "Flickr8k.token.txt")
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_DRAWN = (
    "the split lists are missing, so that the splits are drawn: scores do not compare with others' "
    "(the lists are in Flickr8k_text.zip)"
)
_WHAT = f"Flickr8k's folder: {_IMAGES[0]}, {_TABLE} and the split lists"


@dataclasses.dataclass(frozen=True)
class Flickr8k(FilesDataset):
    """The downloaded Flickr8k.

    Attributes:
      root: its folder.
    """

    root: str = ""

    may_change = (*FilesDataset.may_change, "root")

    def open(self, split: str) -> FilesSource:
        """Opens one of the official splits, or a drawn one; an image's id is its file name.

        Captions of images in no list are ignored; the original has some.

        Args:
          split: "train", "validation" (the dev list) or "test".

        Raises:
          DataError: something is missing or unreadable; the message names it.
        """
        root = self.path("root")
        check_folder(root, field="root", what=_WHAT)
        listed = _find_list(root, split)
        captions = _read_captions(_find_captions(root))
        if listed:
            text = read_text(listed, field="root", what=_WHAT)
            names = [line.strip() for line in text.splitlines() if line.strip()]
        else:
            names = [name for name in captions if _drawn_split(name) == split]
        examples = [Example(name, name, tuple(captions.get(name, ()))) for name in names]
        selection = {} if listed else {"note": _DRAWN}
        return self.files(f"flickr8k/{split}", _find_images(root), examples, selection=selection)


PART = Flickr8k


def _drawn_split(image: str) -> str:
    """As many images for validation and test as the lists have, an eighth for each."""
    return {0: "validation", 1: "test"}.get(int(8 * fraction(image, 0)), "train")


def _find_list(root: str, split: str) -> str | None:
    """The file of a split; None where the folder has no list at all."""
    found = {name: _find_text(root, file) for name, file in _LISTS.items()}
    if found.get(split) or (split in _LISTS and not any(found.values())):
        return found[split]
    there = ", ".join(name for name in found if found[name]) or "none"
    if split not in _LISTS:
        raise DataError(f"Flickr8k has no split {split!r}; in {root} there is: {there}")
    raise DataError(
        f"{root} has no split {split!r}, because it has no {_LISTS[split]}; there is: {there}. "
        "The official lists come in the archive Flickr8k_text.zip"
    )


def _find_captions(root: str) -> str:
    found = [path for file in _CAPTIONS if (path := _find_text(root, file))]
    if not found:
        raise DataError(
            f"{root} has no captions: neither {' nor '.join(_CAPTIONS)}; "
            f"config.dataset.root should be {_WHAT}"
        )
    return found[0]


def _find_text(root: str, file: str) -> str | None:
    paths = (os.path.join(root, folder, file) for folder in _TEXTS)
    return next((path for path in paths if os.path.isfile(path)), None)


def _find_images(root: str) -> str:
    for name in _IMAGES:
        # Some archives unpack to a folder in a folder of the same name.
        for folder in (os.path.join(root, name, name), os.path.join(root, name)):
            if os.path.isdir(folder):
                return folder
    raise DataError(
        f"{root} has no folder of images, none of {', '.join(_IMAGES)}; "
        f"config.dataset.root should be {_WHAT}"
    )


def _read_captions(file: str) -> dict[str, list[str]]:
    """Captions by image name, in the file's order."""
    text = read_text(file, field="root", what=_WHAT)
    rows = _read_table(text) if os.path.basename(file) == _TABLE else _read_tokens(text)
    captions = defaultdict(list)
    bad = []
    for line, row in rows:
        if row is None:
            bad.append(line)
        else:
            captions[row[0]].append(row[1])
    if bad:
        wanted = "image,caption" if os.path.basename(file) == _TABLE else "image#number TAB caption"
        raise DataError(
            f"{file} has {len(bad)} unreadable lines (each must be {wanted}; a caption with commas "
            f"must be in quotes): {first_few(bad)}"
        )
    return captions


def _read_table(text: str) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """Yields (line, (image, caption)) of a CSV, with None for unreadable lines."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if [name.strip().lower() for name in header] != ["image", "caption"]:
            yield 1, None
        for row in reader:
            if row:
                yield reader.line_num, (row[0].strip(), row[1]) if len(row) == 2 else None
    except csv.Error:
        yield reader.line_num, None


def _read_tokens(text: str) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """Yields (line, (image, caption)) of lines `image#number TAB caption`."""
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip():
            key, tab, caption = content.partition("\t")
            image, mark, _ = key.rpartition("#")
            yield line, (image, caption) if tab and mark else None
