"""Images named by a user: files, folders and URLs, on a command line or line by line."""

import glob
import logging
import os
import select
from collections import Counter
from collections.abc import Container, Iterable, Iterator

from capjax.data.download import MAX_BYTES, download, is_url
from capjax.data.images import ImageError, endings, has_image_name, looks_like_image

_logger = logging.getLogger(__name__)

# Short enough to go unnoticed, long enough that few batches are half empty.
MOMENT_SECONDS = 0.1
# Bytes of a name, more than any file system or server accepts.
MAX_LINE = 2**16


class SentImage(str):
    """The name "-" of an image whose bytes, `content`, came on standard input."""

    content: bytes


def expand(names: Iterable[str | None]) -> Iterator[str | None]:
    """Replaces each folder by the image files below it, sorted, and each pattern by its files.

    A pattern has *, ? or [...], and ** for folders of any depth. Other names pass unchanged. So do
    a folder without image files, one that cannot be listed and a pattern without files, and
    `read_input` raises their error. None passes, see `read_lines`.
    """
    for name in names:
        if name is None or is_url(name):
            yield name
        elif os.path.isdir(name):
            yield from _images_below(name) or [name]
        elif found := _matches(name):
            yield from expand(found)
        else:
            yield name


def _matches(name: str) -> list[str]:
    """The files and folders of a pattern, sorted; none for the name of a file."""
    if not glob.has_magic(name) or "\0" in name or os.path.lexists(name):
        return []
    return sorted(glob.glob(name, recursive=True))


def _images_below(folder: str) -> list[str]:
    refused = []
    inside, others = [], Counter()
    for place, _, files in os.walk(folder, onerror=lambda error: refused.append(error.filename)):
        for file in files:
            if has_image_name(file):
                inside.append(os.path.join(place, file))
            else:
                others[os.path.splitext(file)[1].lower() or "no ending"] += 1
    if others and inside:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        _logger.warning(
            "%s: left out %d files whose names are no image's: %s", folder, others.total(), kinds
        )
    return sorted(inside + refused)


def read_input(name: str) -> bytes | str:
    """What `images.decoded` takes for a name: the content of a URL, or a file's name itself.

    Of a `SentImage`, its content.

    Raises:
      ImageError: see `download`; or the name is a folder without images.
    """
    if isinstance(name, SentImage):
        if len(name.content) > MAX_BYTES:
            raise ImageError(f"standard input: more than {MAX_BYTES >> 20} MiB")
        return name.content
    if is_url(name):
        return download(name)
    if os.path.isdir(name):
        try:
            os.listdir(name)
        except OSError as error:
            raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
        raise ImageError(f"{name}: no files ending in {', '.join(endings())} in this folder")
    return name


def read_lines(descriptor: int) -> Iterator[str | None]:
    """Yields the lines of a pipe, file or terminal as they arrive, except blank ones.

    Yields None when nothing arrives for `MOMENT_SECONDS`, so that `batches` need not wait. Where an
    image arrives instead of names, yields it alone, a `SentImage`.

    Args:
      descriptor: of an open file with a name in each line, in the file system's encoding. Only the
        beginning of a line longer than `MAX_LINE` is kept.
    """
    rest, first = b"", True
    while True:
        if not select.select([descriptor], [], [], MOMENT_SECONDS)[0]:
            yield None
            continue
        content = os.read(descriptor, MAX_LINE)
        # Names have no null character, and every binary format soon has one.
        if first and b"\0" in content and looks_like_image(content):
            yield _read_sent(descriptor, content)
            return
        first = False
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


def _read_sent(descriptor: int, content: bytes) -> SentImage:
    while len(content) <= MAX_BYTES and (more := os.read(descriptor, 2**20)):
        content += more
    sent = SentImage("-")
    sent.content = content
    return sent


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
