"""From the data sections of a config to sources, captions and a tokenizer."""

import os
from collections.abc import Mapping
from typing import Any

from capjax.data.captions import CaptionTable, read_captions
from capjax.data.check_images import usable
from capjax.data.source import DataError, Source
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer


def open_source(dataset: Mapping[str, Any], split: str) -> Source:
    """One split of the dataset that a config's `dataset` section names, prepared where it is not.

    Raises:
      DataError: it is not there or can't be used; the message says what would work.
    """
    name = dataset["name"]
    if name == "flickr8k":
        from capjax.data.flickr8k import open_flickr8k

        return open_flickr8k(_given(dataset, "root"), split)
    if name == "karpathy":
        from capjax.data.karpathy import open_karpathy

        return open_karpathy(
            _given(dataset, "file"), _given(dataset, "root"), split, restval=dataset["restval"]
        )
    if name == "coco_json":
        from capjax.data.coco_json import open_coco_json, open_coco_sample

        if not dataset["sample"]:
            _check_one_of(split, ("train", "validation"))
            file, root = _given(dataset, f"{split}_file"), _given(dataset, f"{split}_root")
            return open_coco_json(file, root, split)
        return open_coco_sample(
            _given(dataset, "train_file"),
            _given(dataset, "train_root"),
            split,
            count=dataset["sample"],
            by=dataset["sample_by"],
            seed=dataset["sample_seed"],
        )
    if name == "folder":
        from capjax.data.folder import open_folder

        return open_folder(
            _given(dataset, "file"),
            os.path.expanduser(dataset["root"]) or None,
            split,
            validation_share=dataset["validation_share"],
            seed=dataset["split_seed"],
        )
    # Here, because it needs tensorflow-datasets and nothing else does.
    from capjax.data.tfds_source import open_tfds

    return open_tfds(name, split, data_dir=dataset["data_dir"] or None)


def open_usable(dataset: Mapping[str, Any], split: str) -> Source:
    """`open_source`, and where its images are a user's files, all of them can be read.

    What happens to one that can't be is `dataset.bad_images`'s to say; the check is made once and
    kept in `dataset.cache_dir`.
    """
    source = open_source(dataset, split)
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


def _check_one_of(split: str, splits: tuple[str, ...]) -> None:
    if split not in splits:
        raise DataError(f"there is no split {split!r} here; there are {', '.join(splits)}")


def cache_dir(dataset: Mapping[str, Any]) -> str | None:
    """Where what is derived from a dataset is kept, or None."""
    return os.path.expanduser(dataset["cache_dir"]) or None


def open_captions(dataset: Mapping[str, Any], source: Source) -> CaptionTable:
    """The captions of a split, read once and then kept in `dataset.cache_dir`."""
    return read_captions(source, cache_dir(dataset))


def train_tokenizer(section: Mapping[str, Any], train: CaptionTable) -> Tokenizer:
    """A word tokenizer of the train split, by a config's `tokenizer` section."""
    return train_word_tokenizer(
        (caption for image in train.captions for caption in image),
        **{**section, "max_words": section["max_words"] or None},
    )
