"""Images that a person names on a command line: files, folders and URLs."""

import os
import urllib.error
import urllib.request
from collections.abc import Sequence

from capjax.data.images import ImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
# A photograph is far smaller; a stranger's server may send without end.
MAX_DOWNLOAD = 64 * 2**20
TIMEOUT_SECONDS = 20


def expand(names: Sequence[str]) -> list[str]:
    """Files and URLs as they are, and the image files below each folder, sorted.

    Raises:
      ImageError: a folder has no image files.
    """
    found = []
    for name in names:
        if not os.path.isdir(name):
            found.append(name)
            continue
        inside = sorted(
            os.path.join(folder, file)
            for folder, _, files in os.walk(name)
            for file in files
            if file.lower().endswith(SUFFIXES)
        )
        if not inside:
            raise ImageError(f"{name}: no files ending in {', '.join(SUFFIXES)} in this folder")
        found.extend(inside)
    return found


def is_url(name: str) -> bool:
    """Whether a name is to be downloaded."""
    return name.lower().startswith(("http://", "https://"))


def download(url: str) -> bytes:
    """The bytes of an image at a URL.

    Raises:
      ImageError: no answer in time, an error status, no image, or more than `MAX_DOWNLOAD`.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "capjax"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            kind = response.headers.get_content_type()
            if not kind.startswith("image/") and kind != "application/octet-stream":
                raise ImageError(f"{url}: is {kind}, not an image")
            content = response.read(MAX_DOWNLOAD + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "reason", None) or error
        raise ImageError(f"{url}: cannot be downloaded: {reason}") from error
    if len(content) > MAX_DOWNLOAD:
        raise ImageError(f"{url}: more than {MAX_DOWNLOAD >> 20} MiB")
    return content
