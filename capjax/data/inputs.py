"""Images named by a user: files, folders and URLs, on a command line or line by line."""

import os
import select
from collections.abc import Container, Iterable, Iterator

from capjax.data.download import download, is_url
from capjax.data.images import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
# Short enough to go unnoticed, long enough that few batches are half empty.
MOMENT_SECONDS = 0.1
# Bytes of a name, more than any file system or server accepts.
MAX_LINE = 2**16


def expand(names: Iterable[str | None]) -> Iterator[str | None]:
    """Replaces each folder by the image files below it, sorted; other names pass unchanged.

    A folder without image files, or one that cannot be listed, passes too, and `read_input` raises
    its error. None passes, see `read_lines`.
    """
    for name in names:
        if name is None or is_url(name) or not os.path.isdir(name):
            yield name
            continue
        yield from _images_below(name) or [name]


def _images_below(folder: str) -> list[str]:
    refused = []
    inside = [
        os.path.join(place, file)
        for place, _, files in os.walk(folder, onerror=lambda error: refused.append(error.filename))
        for file in files
        if file.lower().endswith(SUFFIXES)
    ]
    return sorted(inside + refused)


def read_input(name: str) -> bytes | str:
    """What `images.decoded` takes for a name: the content of a URL, or a file's name itself.

    Raises:
      ImageError: see `download`; or the name is a folder without images.
    """
    if is_url(name):
        return download(name)
    if os.path.isdir(name):
        try:
            os.listdir(name)
        except OSError as error:
            raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
        raise ImageError(f"{name}: no files ending in {', '.join(SUFFIXES)} in this folder")
    return name


def read_lines(descriptor: int) -> Iterator[str | None]:
    """Yields the lines of a pipe, file or terminal as they arrive, except blank ones.

    Yields None when nothing arrives for `MOMENT_SECONDS`, so that `batches` need not wait.

    Args:
      descriptor: of an open file with a name in each line, in the file system's encoding. Only the
        beginning of a line longer than `MAX_LINE` is kept.
    """
    rest = b""
    while True:
        if not select.select([descriptor], [], [], MOMENT_SECONDS)[0]:
            yield None
            continue
        content = os.read(descriptor, MAX_LINE)
        *lines, rest = (rest + content).split(b"\n")
        if not content:
            lines, rest = [rest], b""
        for line in lines:
            if len(line) > MAX_LINE:  # Too long for a name.
                yield f"(a line of more than {MAX_LINE} bytes) {os.fsdecode(line[:80])}..."
            elif line := line.removesuffix(b"\r"):
                yield os.fsdecode(line)
        rest = rest[: MAX_LINE + 1]
        if not content:
            return


def batches(
    names: Iterable[str | None], size: int, skip: Container[str] = ()
) -> Iterator[list[tuple[int, str]]]:
    """Groups names, each with its index among all names, into batches of up to `size`.

    At each None the batch is yielded at once, even if it is empty, so that the caller can finish
    other work.

    Args:
      names: see `read_lines`.
      size: most names in a batch.
      skip: names to leave out, which still count in the indices.
    """
    batch, place = [], 0
    for name in names:
        if name is None:
            yield batch
            batch = []
            continue
        if name not in skip:
            batch.append((place, name))
        place += 1
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
