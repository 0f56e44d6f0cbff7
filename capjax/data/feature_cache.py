"""Features of a frozen encoder on disk, computed once and read through a memory map.

A cache is a folder:

meta.json       its key, and the shape and type of its arrays
features.npy    [I, P, F], float16, or bfloat16 stored as uint16
checksums.npy   uint32 [I], the CRC-32 of each image's features

It is written as `<folder>.partial` and renamed when complete, so that a reader never sees half of
it. An interrupted write is continued after its checksums are verified. Each image's features are
verified when they are first read.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from tqdm import tqdm

from capjax.files.atomic import write_atomic
from capjax.files.errors import DataError
from capjax.files.locks import one_at_a_time
from capjax.files.text import parse_json
from capjax.parallel import processes

_logger = logging.getLogger(__name__)

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class FeatureShape(NamedTuple):
    """The shape of the features of a source.

    Attributes:
      images: I.
      positions: P, prefix + h * w.
      width: F.
      grid: (h, w) of the spatial positions.
      prefix: number of positions before the grid, such as a class token.
      dtype: "float16" or "bfloat16".
    """

    images: int
    positions: int
    width: int
    grid: tuple[int, int]
    prefix: int
    dtype: str

    @property
    def bytes(self) -> int:
        """Size of the features."""
        return self.images * self.positions * self.width * 2


class FeatureCache:
    """Features [I, P, F] of a source's images; thread-safe.

    Attributes:
      directory: the folder of the cache.
      shape: a `FeatureShape`.
    """

    def __init__(self, directory: str | os.PathLike, key: Mapping[str, Any], shape: FeatureShape):
        """Opens a complete cache, whose key must be `key`.

        Raises:
          DataError: the cache is damaged or has another key.
        """
        self.directory = Path(directory)
        self.shape = shape
        try:
            meta = parse_json((self.directory / "meta.json").read_bytes())
            features, checksums = (_open(file, "r") for file in _files(self.directory, shape))
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from error
        if meta != _meta(key, shape):
            raise self._damaged("it was made from other inputs than its name says")
        self._features, self._checksums = features, np.array(checksums)
        self._seen = np.zeros(shape.images, bool)

    def __len__(self) -> int:
        return self.shape.images

    def read(self, index: np.ndarray) -> np.ndarray:
        """The features [len(index), P, F] of some images; zeros for the padding index -1.

        Raises:
          DataError: an image's features do not match their checksum.
        """
        batch = np.zeros((len(index), *self._features.shape[1:]), self._features.dtype)
        for row, image in enumerate(index):
            if image < 0:
                continue
            batch[row] = self._features[image]
            if not self._seen[image]:
                if zlib.crc32(batch[row]) != self._checksums[image]:
                    raise self._damaged(f"the features of image {image} have changed")
                self._seen[image] = True
        return batch.view(DTYPES[self.shape.dtype])

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"the feature cache {self.directory} cannot be used: {reason}. Delete the folder and "
            "start again to compute the features anew"
        )


def open_features(
    directory: str | os.PathLike,
    key: Mapping[str, Any],
    shape: FeatureShape,
    compute: Callable[[np.ndarray], Iterator[np.ndarray]],
    *,
    batch_size: int,
    name: str,
) -> FeatureCache:
    """Opens the cache in `directory`, and computes it first if it does not exist.

    Args:
      directory: of this cache only; its name must be derived from `key`.
      key: everything that the features depend on, JSON values.
      shape: of the features.
      compute: maps batches of image indices, int32 [batches, batch_size], to an iterator of their
        features [batch_size, P, F]. The last batch is padded with -1.
      batch_size: images in a batch.
      name: the source's name in messages.

    Raises:
      DataError: the disk is too small, or the cache exists and cannot be used.
    """
    directory = Path(directory)
    if not directory.exists():
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{directory.parent} cannot be made: {error.strerror}; set "
                "config.dataset.cache_dir to a folder that can be written"
            ) from error
        lock = directory.with_name(f"{directory.name}.lock")
        said = f"another process computes the features of {name}: waiting for it"
        with one_at_a_time(lock, said):
            if not directory.exists():  # Another process may have written it.
                _write(directory, key, shape, compute, batch_size, name)
    return FeatureCache(directory, key, shape)


def _write(directory, key, shape, compute, batch_size, name) -> None:
    partial = directory.with_name(f"{directory.name}.partial")
    _check_size(directory, partial, shape, name)
    features, checksums = _open_partial(partial, key, shape)
    done = _count_done(features, checksums, name)
    # From a whole batch on, so that a continued cache equals an uninterrupted one bit for bit.
    first = done // batch_size
    index = np.full(-(-shape.images // batch_size) * batch_size, -1, np.int32)
    index[: shape.images] = np.arange(shape.images)
    batches = index.reshape(-1, batch_size)[first:]
    bar = tqdm(
        total=shape.images,
        initial=first * batch_size,
        desc=f"features of {name}",
        unit="image",
        disable=not processes.is_primary(),
    )
    with bar:
        for indices, batch in zip(batches, compute(batches), strict=True):
            count = int((indices >= 0).sum())
            with np.errstate(over="ignore"):  # The error below has a better message.
                values = np.ascontiguousarray(batch[:count]).astype(DTYPES[shape.dtype])
            if not np.isfinite(values).all():
                raise DataError(
                    f"features of {name} do not fit into {shape.dtype}: some are infinite or not a "
                    "number; config.encoder.cache='bfloat16' has a wider range"
                )
            stored = values.view(features.dtype)
            start = int(indices[0])
            features[start : start + count] = stored
            # After the features, because a checksum marks its image as done.
            checksums[start : start + count] = [zlib.crc32(image) for image in stored]
            bar.update(count)
    features.flush()
    checksums.flush()
    del features, checksums
    try:
        os.replace(partial, directory)
    except FileNotFoundError as error:
        raise DataError(
            f"{partial} was deleted while the features of {name} were written to it: start again "
            "to compute them anew"
        ) from error


def _check_size(directory: Path, partial: Path, shape: FeatureShape, name: str) -> None:
    """Logs the size of a cache; raises DataError if the disk has no room for it."""
    free = shutil.disk_usage(directory.parent).free
    _logger.info(
        "features of %s: %d images x %d positions x %d %s = %.2f GB, kept in %s "
        "(%.1f GB free there)",
        name,
        shape.images,
        shape.positions,
        shape.width,
        shape.dtype,
        shape.bytes / 1e9,
        directory,
        free / 1e9,
    )
    if shape.bytes > free and not partial.exists():
        raise _no_room(directory.parent, shape, f"only {free / 1e9:.2f} GB are free")


def _meta(key: Mapping[str, Any], shape: FeatureShape) -> dict[str, Any]:
    # Through JSON, so that tuples equal the lists of a saved file.
    return json.loads(json.dumps({"key": key, "shape": shape._asdict()}))


def _open_partial(partial: Path, key: Mapping[str, Any], shape: FeatureShape):
    """Opens the arrays of a partial cache for writing; new ones unless key and shape match."""
    meta = json.dumps(_meta(key, shape), indent=1).encode()
    files = _files(partial, shape)
    try:
        if (partial / "meta.json").read_bytes() != meta:
            raise ValueError("other features")
        opened = [_open(file, "r+") for file in files]
    except (OSError, ValueError):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        opened = [_reserve(file, shape) for file in files]
        write_atomic(partial / "meta.json", meta)
    return opened


class _File(NamedTuple):
    """One of a cache's arrays."""

    path: Path
    dtype: Any
    axes: tuple[int, ...]


def _files(directory: Path, shape: FeatureShape) -> tuple[_File, _File]:
    """The features file and the checksums file of a folder."""
    stored = np.uint16 if shape.dtype == "bfloat16" else np.float16
    axes = (shape.images, shape.positions, shape.width)
    return (
        _File(directory / "features.npy", np.dtype(stored), axes),
        _File(directory / "checksums.npy", np.dtype(np.uint32), axes[:1]),
    )


def _open(file: _File, mode: str) -> np.ndarray:
    """Maps an array file into memory; a header with a false shape allocates none.

    Raises:
      OSError: the file is missing or cannot be read.
      ValueError: the file is damaged, or has another shape or type.
    """
    try:
        array = np.lib.format.open_memmap(file.path, mode=mode)
    except OSError:
        raise
    except Exception as error:  # A damaged header can raise any exception.
        raise ValueError(f"{file.path.name} is damaged ({error})") from error
    if (array.shape, array.dtype) != (file.axes, file.dtype):
        raise ValueError(
            f"{file.path.name} has {array.dtype}{list(array.shape)} and not "
            f"{file.dtype}{list(file.axes)}"
        )
    return array


def _reserve(reserved: _File, shape: FeatureShape) -> np.ndarray:
    """Creates a file of zeros and allocates its space on the disk.

    Without that, a disk that fills up later kills the process: a write to mapped memory has no
    error.
    """
    file, dtype, axes = reserved
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=axes)
    if hasattr(os, "posix_fallocate"):  # Not on macOS.
        try:
            with open(file, "r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        except OSError as error:
            shutil.rmtree(file.parent, ignore_errors=True)
            raise _no_room(file.parent.parent, shape, str(error.strerror)) from error
    return array


def _no_room(folder: Path, shape: FeatureShape, reason: str) -> DataError:
    return DataError(
        f"no room for {shape.bytes / 1e9:.2f} GB of features in {folder}: {reason}. Set "
        "config.dataset.cache_dir to a larger disk, or config.encoder.cache='' to compute them "
        "in every step"
    )


def _count_done(features: np.ndarray, checksums: np.ndarray, name: str) -> int:
    """The number of images, counted from the first, whose features match their checksums."""
    # A checksum of 0 means unwritten; features that have it, one in 2**32, are computed again.
    written = int(np.argmin(checksums != 0)) if (checksums == 0).any() else len(checksums)
    for image in range(written):
        if zlib.crc32(features[image]) != checksums[image]:
            written = image
            break
    if written:
        _logger.info("continuing the features of %s after %d images", name, written)
    return written
