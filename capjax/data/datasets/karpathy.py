"""Karpathy's splits of COCO, Flickr8k and Flickr30k (Karpathy and Fei-Fei 2015).

The files dataset_coco.json, dataset_flickr8k.json and dataset_flickr30k.json have the split, the
file name and the sentences of each image.
"""

import dataclasses
import os
import posixpath
from collections import Counter
from typing import Any

from capjax.data.dataset import FilesDataset
from capjax.data.files_source import FilesSource
from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import LayoutError, check_folder, member, read_json

_WHAT = "Karpathy's dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json"
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@dataclasses.dataclass(frozen=True)
class Karpathy(FilesDataset):
    """One of Karpathy's files and its images.

    Attributes:
      file: the JSON file.
      root: folder of the images; for COCO the folder of train2014/ and val2014/.
      restval: whether "train" includes "restval", the rest of COCO's validation images.
    """

    file: str = ""
    root: str = ""
    restval: bool = True

    may_change = (*FilesDataset.may_change, "file", "root")

    def open(self, split: str) -> FilesSource:
        """Opens one split; an image's id is its COCO id, or else its file name.

        Captions are the raw sentences, or the joined tokens where a file has only those.

        Args:
          split: "train", "validation" or "test".

        Raises:
          DataError: the file is missing, not Karpathy's, or has no such split.
        """
        file, root = self.path("file"), self.path("root")
        content = read_json(file, field="file", what=_WHAT)
        check_folder(root, field="root", what="the root of the file's image paths")
        try:
            images = member(content, "images", list, "the file")
            names = [member(image, "split", str, f"images[{i}]") for i, image in enumerate(images)]
            parts = _parts(file, split, self.restval, Counter(names))
            examples = [
                _example(images[i], f"images[{i}]") for i, name in enumerate(names) if name in parts
            ]
        except LayoutError as error:
            raise DataError(f"{file}: {error}; config.dataset.file should be {_WHAT}") from error
        stem = os.path.splitext(os.path.basename(file))[0]
        name = f"{stem}/{'+'.join(parts)}"
        return self.files(name, root, examples)


PART = Karpathy


def _parts(file: str, split: str, restval: bool, counts: Counter) -> list[str]:
    """The file's names of the parts of a split.

    Raises:
      DataError: there is no such split; the message lists those of the file.
    """
    if _SPLITS.get(split) not in counts:
        there = ", ".join(f"{name} ({count} images)" for name, count in sorted(counts.items()))
        raise DataError(
            f"{file} has no split {split!r}; it has {there or 'no images'}. "
            "Ask for train, validation (the file's val) or test"
        )
    parts = [_SPLITS[split]]
    return [*parts, "restval"] if split == "train" and restval and "restval" in counts else parts


def _example(image: Any, where: str) -> Example:
    path = member(image, "filename", str, where)
    image_id = str(member(image, "cocoid", (int, str), where)) if "cocoid" in image else path
    if "filepath" in image:
        path = posixpath.join(member(image, "filepath", str, where), path)
    sentences = member(image, "sentences", list, where)
    captions = tuple(_caption(row, f"{where}.sentences[{k}]") for k, row in enumerate(sentences))
    return Example(path, image_id, captions)


def _caption(sentence: Any, where: str) -> str:
    if isinstance(sentence, dict) and "raw" not in sentence:
        return " ".join(map(str, member(sentence, "tokens", list, where)))
    return member(sentence, "raw", str, where)
