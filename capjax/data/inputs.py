"""Images that a person names: files, folders and URLs, on a command line or line by line."""

import os
import select
from collections.abc import Container, Iterable, Iterator

from PIL import Image

from capjax.data.download import download, is_url
from capjax.data.images import ImageError, load_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
# Nobody waits a tenth of a second for a caption that is ready, and few batches go half empty.
MOMENT_SECONDS = 0.1
# Of a name: more than any file system or server takes.
MAX_LINE = 2**16


def expand(names: Iterable[str | None]) -> Iterator[str | None]:
    """Names as they are, but folders as the image files below them, sorted.

    A folder without image files, or one that can't be listed, comes itself, and `read_input` says
    what is wrong with it. None, see `read_lines`, is handed on.
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


def read_input(name: str) -> Image.Image:
    """The upright RGB picture of one name.

    Raises:
      ImageError: see `load_image` and `download`; or it is a folder that `expand` found nothing in.
    """
    if is_url(name):
        return load_image(download(name), name=name)
    if os.path.isdir(name):
        try:
            os.listdir(name)
        except OSError as error:
            raise ImageError(f"{name}: cannot be read: {error.strerror}") from error
        raise ImageError(f"{name}: no files ending in {', '.join(SUFFIXES)} in this folder")
    return load_image(name)


def read_lines(descriptor: int) -> Iterator[str | None]:
    """Lines of a pipe, file or terminal as they come, less blank ones; None after each silence.

    A moment's silence is worth knowing: who collects lines need not wait for more.

    Args:
      descriptor: an open file's, with a name in each line as the file system spells it. Of a line
        that does not end only enough is kept to name it as what it is.
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
            if len(line) > MAX_LINE:  # No file has this name.
                yield f"(a line of more than {MAX_LINE} bytes) {os.fsdecode(line[:80])}..."
            elif line := line.removesuffix(b"\r"):
                yield os.fsdecode(line)
        rest = rest[: MAX_LINE + 1]
        if not content:
            return


def batches(
    names: Iterable[str | None], size: int, skip: Container[str] = ()
) -> Iterator[list[tuple[int, str]]]:
    """Names with their places among all names, up to `size` together.

    What is there goes at each None, and may be nothing: so whoever captions them can bring other
    work to its end.

    Args:
      names: see `read_lines`.
      size: names at most.
      skip: names to leave out; they have their places all the same.
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
