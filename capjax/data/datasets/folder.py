"""A user's own images with captions; `capjax.data.rows` says in which files."""

import bisect
import dataclasses
import logging
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence

from capjax.data.dataset import FilesDataset
from capjax.data.draw import fraction
from capjax.data.files_source import FilesSource
from capjax.data.rows import Row, folder_of, read_rows
from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import check_folder, first_few
from capjax.parts.types import OpenShare, Seed

_logger = logging.getLogger(__name__)

# Fewest images of a drawn validation split, since with one CIDEr-D is 0 for any caption; and of a
# folder for which a share is worth advising.
_LEAST, _WORTH_DRAWING = 2, 6


@dataclasses.dataclass(frozen=True)
class Folder(FilesDataset):
    """A user's own images.

    Attributes:
      file: the table, or a folder; see `capjax.data.rows`.
      root: root of the image paths; "" is the table's folder.
      validation_share: share of the images in validation where no row names a split.
      split_seed: seed of that split.
    """

    file: str = ""
    root: str = ""
    validation_share: OpenShare = 0.1
    split_seed: Seed = 0

    may_change = (*FilesDataset.may_change, "file", "root")

    def open(self, split: str) -> FilesSource:
        """Opens one split; an image's id is its path.

        Where no row names a split, a share of the images is validation and the rest train. The
        choice is by a hash of path and seed alone, so that adding images moves none of the others.

        Args:
          split: "train", "validation" (in the table also "val" or "dev") or "test".

        Raises:
          DataError: a file is missing, rows cannot be used (the message has their lines), there is
            no such split, or the share gives validation fewer than two images.
        """
        file = self.path("file")
        rows, left_out = read_rows(file)
        if left_out and split == "train":  # Said once, not for each split.
            _logger.info("%s: left out %s", file, left_out)
        folder = os.path.expanduser(self.root) or folder_of(file)
        check_folder(folder, field="root", what="the root of the image paths")
        captions: dict[str, list[str]] = {}
        for row in rows:
            captions.setdefault(row.image, []).extend(row.captions)
        splits = _named_splits(file, rows)
        if not splits:
            drawn = captions, self.validation_share, self.split_seed
            splits = _drawn_splits(*drawn)
            if split == "validation":
                _check_drawn(file, *drawn)
        counts = Counter(splits.values())
        if split not in counts:
            there = ", ".join(f"{name} ({count} images)" for name, count in sorted(counts.items()))
            raise DataError(
                f"{file} has no split {split!r}; it has {there}. Name splits in a column 'split', "
                "or draw a validation split with config.dataset.validation_share"
            )
        examples = [
            Example(image, image, tuple(texts))
            for image, texts in captions.items()
            if splits[image] == split
        ]
        stem = os.path.splitext(os.path.basename(os.path.abspath(file)))[0]
        return self.files(f"{stem}/{split}", folder, examples)


PART = Folder


def _named_splits(file: str, rows: Sequence[Row]) -> dict[str, str]:
    """Each image's split in the table; empty where no row names one.

    Raises:
      DataError: some rows lack a split, or an image is in two splits.
    """
    if not any(row.split for row in rows):
        return {}
    if lacking := [row.line for row in rows if not row.split]:
        raise DataError(
            f"{file} names a split in some rows, but not in {len(lacking)}: lines "
            f"{first_few(lacking)}; name it in all or in none"
        )
    splits = {row.image: row.split for row in rows}
    if torn := dict.fromkeys(row.image for row in rows if splits[row.image] != row.split):
        raise DataError(
            f"{file} has {len(torn)} images in more than one split: {first_few(list(torn))}; "
            "all rows of an image must name the same split"
        )
    return splits


def _drawn_splits(images: Collection[str], share: float, seed: int) -> dict[str, str]:
    if not 0 < share < 1:
        raise DataError(f"config.dataset.validation_share must be between 0 and 1, not {share}")
    return {image: "validation" if fraction(image, seed) < share else "train" for image in images}


def _check_drawn(file: str, images: Collection[str], share: float, seed: int) -> None:
    """Raises DataError if a share takes too few images for validation; says which is enough."""
    fractions = sorted(fraction(image, seed) for image in images)
    count = bisect.bisect_left(fractions, share)
    if count >= _LEAST:
        return
    named = "name splits in a column 'split'"
    if len(fractions) >= _WORTH_DRAWING:
        # The next hundredth.
        enough = math.floor(100 * fractions[_LEAST - 1] + 1) / 100
        taken = bisect.bisect_left(fractions, enough)
        if 2 * taken <= len(fractions):
            named = f"--config.dataset.validation_share={enough} takes {taken}, or {named}"
    raise DataError(
        f"{file} has {len(fractions)} images, and config.dataset.validation_share={share} takes "
        f"{count} of them for validation, which needs {_LEAST}: {named}"
    )
