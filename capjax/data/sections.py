"""From the data sections of a config to sources, captions and a tokenizer."""

import os
from collections.abc import Mapping
from typing import Any

from capjax.data.captions import CaptionTable, read_captions
from capjax.data.check_images import usable
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.files.errors import DataError


def open_source(dataset: Mapping[str, Any], split: str) -> Source:
    """One split of the dataset that a config's `dataset` section names, prepared where it is not.

    Raises:
      DataError: it is not there or can't be used; the message says what would work.
    """
    name = dataset["name"]
    if name == "flickr8k":
        from capjax.data.datasets.flickr8k import open_flickr8k

        return open_flickr8k(_given(dataset, "root"), split, allow_outside=dataset["allow_outside"])
    if name == "karpathy":
        from capjax.data.datasets.karpathy import open_karpathy

        return open_karpathy(
            _given(dataset, "file"),
            _given(dataset, "root"),
            split,
            restval=dataset["restval"],
            allow_outside=dataset["allow_outside"],
        )
    if name == "coco_json":
        from capjax.data.datasets.coco_json import check_split, open_coco_json, open_coco_sample

        if not dataset["sample"]:
            check_split(split)
            file, root = _given(dataset, f"{split}_file"), _given(dataset, f"{split}_root")
            return open_coco_json(file, root, split, allow_outside=dataset["allow_outside"])
        return open_coco_sample(
            _given(dataset, "train_file"),
            _given(dataset, "train_root"),
            split,
            count=dataset["sample"],
            by=dataset["sample_by"],
            seed=dataset["sample_seed"],
            allow_outside=dataset["allow_outside"],
        )
    if name == "folder":
        from capjax.data.datasets.folder import open_folder

        return open_folder(
            _given(dataset, "file"),
            os.path.expanduser(dataset["root"]) or None,
            split,
            validation_share=dataset["validation_share"],
            seed=dataset["split_seed"],
            allow_outside=dataset["allow_outside"],
        )
    # Here, because it needs tensorflow-datasets and nothing else does.
    from capjax.data.datasets.tfds import open_tfds

    return open_tfds(name, split, data_dir=dataset["data_dir"] or None)


def check_images(dataset: Mapping[str, Any], source: Source) -> Source:
    """The source with only images that can be read, where they are a user's files.

    What happens to others is `dataset.bad_images`'s to say; the check is made once and kept in
    `dataset.cache_dir`.

    Raises:
      DataError: there are others, and they are not to be skipped.
    """
    if "bad_images" not in dataset:
        return source
    return usable(
        source,
        bad_images=dataset["bad_images"],
        cache_dir=cache_dir(dataset),
        num_threads=dataset["num_threads"],
    )


def _given(dataset: Mapping[str, Any], field: str) -> str:
    """A path that the user must give."""
    if not dataset[field]:
        raise DataError(
            f"config.dataset.{field} is empty; give the path: --config.dataset.{field}=PATH"
        )
    return os.path.expanduser(dataset[field])


def cache_dir(dataset: Mapping[str, Any]) -> str | None:
    """Where what is derived from a dataset is kept, or None.

    Raises:
      DataError: it is no folder.
    """
    path = os.path.expanduser(dataset["cache_dir"])
    if path and os.path.exists(path) and not os.path.isdir(path):
        raise DataError(f"config.dataset.cache_dir={path} is a file; give a folder, or '' for none")
    return path or None


def open_captions(dataset: Mapping[str, Any], source: Source) -> CaptionTable:
    """The captions of a split, read once and then kept in `dataset.cache_dir`."""
    return read_captions(source, cache_dir(dataset))


def train_tokenizer(section: Mapping[str, Any], train: CaptionTable) -> Tokenizer:
    """A word tokenizer of the train split, by a config's `tokenizer` section.

    Raises:
      DataError: no word is left, or a field is out of its range.
    """
    try:
        return train_word_tokenizer(
            (caption for image in train.captions for caption in image),
            **{**section, "max_words": section["max_words"] or None},
        )
    except ValueError as error:
        raise DataError(f"config.tokenizer makes no vocabulary: {error}") from error
