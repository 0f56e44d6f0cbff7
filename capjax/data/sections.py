"""From the data sections of a config to sources, captions and a tokenizer."""

import os
from collections.abc import Mapping
from typing import Any

from capjax.data.captions import CaptionTable, read_captions
from capjax.data.check_images import usable
from capjax.data.dataset import Dataset, FilesDataset
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer, train_word_tokenizer
from capjax.files.errors import DataError
from capjax.parts import DATASETS
from capjax.parts.check import fields_of
from capjax.parts.registry import PartError


def dataset_of(section: Mapping[str, Any]) -> Dataset:
    """The dataset that a config's `dataset` section describes.

    Raises:
      DataError: there is none of its name; the message lists those that there are.
    """
    try:
        part = DATASETS.get(section["name"])
    except PartError as error:
        raise DataError(f"config.dataset.name={section['name']!r}: {error}") from error
    return part(**{name: section[name] for name in fields_of(part)})


def open_source(section: Mapping[str, Any], split: str) -> Source:
    """One split of the dataset that a config's `dataset` section describes.

    Raises:
      DataError: it is not there or can't be used; the message says what would work.
    """
    return dataset_of(section).open(split)


def check_images(section: Mapping[str, Any], source: Source) -> Source:
    """The source with only images that can be read, where they are a user's files.

    `dataset.bad_images` says what happens to others. The check is made once and kept in
    `dataset.cache_dir`.

    Raises:
      DataError: there are others, and they are not to be skipped.
    """
    dataset = dataset_of(section)
    if not isinstance(dataset, FilesDataset):
        return source
    return usable(
        source,
        bad_images=dataset.bad_images,
        cache_dir=cache_dir(section),
        num_threads=section["num_threads"],
    )


def cache_dir(section: Mapping[str, Any]) -> str | None:
    """The folder where what is derived from a dataset is kept, or None.

    Raises:
      DataError: it is a file.
    """
    path = os.path.expanduser(section["cache_dir"])
    if path and os.path.exists(path) and not os.path.isdir(path):
        raise DataError(f"config.dataset.cache_dir={path} is a file; give a folder, or '' for none")
    return path or None


def open_captions(section: Mapping[str, Any], source: Source) -> CaptionTable:
    """The captions of a split, read once and then kept in `dataset.cache_dir`."""
    return read_captions(source, cache_dir(section))


def train_tokenizer(section: Mapping[str, Any], train: CaptionTable) -> Tokenizer:
    """A word tokenizer of the train split, by a config's `tokenizer` section.

    Raises:
      DataError: no word is left, or a field is out of its range.
    """
    try:
        return train_word_tokenizer(
            (caption for image in train.captions for caption in image),
            **section,
        )
    except ValueError as error:
        raise DataError(f"config.tokenizer makes no vocabulary: {error}") from error
