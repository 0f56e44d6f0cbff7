"""Builds sources, captions and a tokenizer from the data sections of a config."""

import os
from collections.abc import Mapping
from typing import Any

from capjax.data.caption_cache import open_tokenizer
from capjax.data.captions import CaptionTable, read_captions
from capjax.data.check_images import usable
from capjax.data.dataset import Dataset, FilesDataset
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.files.atomic import check_local
from capjax.files.errors import DataError
from capjax.parts import DATASETS
from capjax.parts.check import fields_of
from capjax.parts.registry import PartError


def dataset_of(section: Mapping[str, Any]) -> Dataset:
    """Builds the dataset of a config's `dataset` section.

    Raises:
      DataError: its name is unknown; the message lists the known ones.
    """
    try:
        part = DATASETS.get(section["name"])
    except PartError as error:
        raise DataError(f"config.dataset.name={section['name']!r}: {error}") from error
    # A run that is older than a field has that field's default.
    return part(**{name: section[name] for name in fields_of(part) if name in section})


def open_source(section: Mapping[str, Any], split: str) -> Source:
    """Opens one split of the dataset of a config's `dataset` section.

    Raises:
      DataError: the split is missing or cannot be used; the message says what would work.
    """
    return dataset_of(section).open(split)


def check_images(section: Mapping[str, Any], source: Source) -> Source:
    """Checks the images of a user's files; the source without unreadable ones.

    `dataset.bad_images` says whether unreadable images are skipped. The result is kept in
    `dataset.cache_dir`.

    Raises:
      DataError: there are unreadable images, and they must not be skipped.
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
    """The folder for data derived from a dataset, or None.

    Raises:
      DataError: the path is a file or a URL.
    """
    path = os.path.expanduser(section["cache_dir"])
    try:
        check_local(path)
    except OSError as error:
        raise DataError(f"config.dataset.cache_dir={path} is {error.strerror}") from error
    if path and os.path.exists(path) and not os.path.isdir(path):
        raise DataError(f"config.dataset.cache_dir={path} is a file; give a folder, or '' for none")
    return path or None


def open_captions(section: Mapping[str, Any], source: Source) -> CaptionTable:
    """Reads the captions of a split, cached in `dataset.cache_dir`."""
    return read_captions(source, cache_dir(section))


def train_tokenizer(config: Mapping[str, Any], train: CaptionTable) -> Tokenizer:
    """Trains the tokenizer of a config's `tokenizer` section, cached in `dataset.cache_dir`.

    Args:
      config: the whole config.
      train: the captions of the train split.

    Raises:
      DataError: no word is left, or a field is out of range.
    """
    try:
        return open_tokenizer(train, config["tokenizer"], cache_dir(config["dataset"]))
    except ValueError as error:
        raise DataError(f"config.tokenizer makes no vocabulary: {error}") from error
