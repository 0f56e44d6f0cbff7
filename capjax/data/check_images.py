"""Finds the images of a source that cannot be read, before a long run starts."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from capjax.data.images import ImageError, decoded
from capjax.data.source import Source
from capjax.files.atomic import read_cached, write_cached
from capjax.files.errors import DataError

_logger = logging.getLogger(__name__)

_FORMAT = "capjax images 1"

# Images in a thread's task: handing over one image alone costs as much as a small image's check.
_CHUNK = 16

# Most bad images in a message.
_LISTED = 10


def usable(
    source: Source,
    *,
    bad_images: str,
    cache_dir: str | os.PathLike | None,
    num_threads: int,
) -> Source:
    """Decodes every image of a source; the source without images that cannot be read.

    Args:
      source: of a user's files; must have a method `without(image_ids)`.
      bad_images: "refuse" or "skip".
      cache_dir: see `find_bad_images`.
      num_threads: threads that read and decode.

    Raises:
      DataError: there are bad images and `bad_images` is "refuse"; all images are bad; or
        `bad_images` is something else.
    """
    if bad_images not in ("refuse", "skip"):
        raise DataError(f'config.dataset.bad_images must be "refuse" or "skip", not {bad_images!r}')
    bad = find_bad_images(source, cache_dir=cache_dir, num_threads=num_threads)
    if not bad:
        return source
    what = f"{len(bad)} of {len(source)} images"
    if bad_images == "refuse" or len(bad) == len(source):
        advice = "repair them, or leave them out with --config.dataset.bad_images=skip"
        if len(bad) == len(source):
            advice = "is the folder of images the right one?"
        listed = _first([f"  {image_id}: {reason}" for image_id, reason in bad.items()])
        raise DataError("\n".join([f"{source.name}: {what} cannot be used; {advice}", *listed]))
    named = ", ".join(_first(list(bad)))
    _logger.info("%s: left out %s that cannot be used: %s", source.name, what, named)
    return source.without(list(bad))


def _first(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return [*lines[:_LISTED], *more]


def find_bad_images(
    source: Source, *, cache_dir: str | os.PathLike | None, num_threads: int
) -> dict[str, str]:
    """Decodes every image of a source; the reasons by id for those that cannot be used, in order.

    With a `cache_dir` the indices of bad images are saved there as a JSON file keyed by the
    source's fingerprint. Later only these are decoded again, because the disk may have failed. A
    file that is damaged or belongs to another source is ignored and written again.
    """
    path = Path(cache_dir) / f"images-{source.fingerprint}.json" if cache_dir else None
    suspects = _load_suspects(path, source) if path else None
    indices = range(len(source)) if suspects is None else suspects
    bad = list(_check(source, indices, num_threads)) if indices else []
    found = [index for index, _, _ in bad]
    if path and found != suspects:
        content = {"format": _FORMAT, "fingerprint": source.fingerprint, "images": len(source)}
        write_cached(path, content | {"bad": found})
    return {image_id: reason for _, image_id, reason in bad}


def _load_suspects(path: Path, source: Source) -> list[int] | None:
    """Indices of images that were bad; None where the file is damaged or another source's."""
    content = read_cached(path)
    if content is None:
        return None
    of = (content["format"], content["fingerprint"], content["images"])
    return content["bad"] if of == (_FORMAT, source.fingerprint, len(source)) else None


def _check(
    source: Source, indices: Sequence[int], num_threads: int
) -> Iterator[tuple[int, str, str]]:
    """Yields (index, image id, reason) of bad images among `indices`, in order."""
    pool = ThreadPoolExecutor(num_threads)
    # disable=None: only on a terminal, because in a log file a bar is a thousand lines.
    bar = tqdm(
        total=len(indices), desc=f"check images of {source.name}", unit=" images", disable=None
    )
    ahead = deque()
    try:
        for start in range(0, len(indices), _CHUNK):
            chunk = indices[start : start + _CHUNK]
            ahead.append((len(chunk), pool.submit(_check_chunk, source, chunk)))
            # Bounds the memory of queued tasks.
            if len(ahead) > 2 * num_threads:
                yield from _finish(ahead, bar)
        while ahead:
            yield from _finish(ahead, bar)
    finally:
        # Also when the source fails or the user interrupts.
        pool.shutdown(cancel_futures=True)
        bar.close()


def _finish(ahead: deque, bar: tqdm) -> list[tuple[int, str, str]]:
    images, check = ahead.popleft()
    bad = check.result()
    bar.update(images)
    return bad


def _check_chunk(source: Source, indices: Sequence[int]) -> list[tuple[int, str, str]]:
    bad = []
    for index in indices:
        image, image_id, _ = source[index]
        try:
            with decoded(image):
                pass
        except ImageError as error:
            bad.append((index, image_id, str(error)))
    return bad
