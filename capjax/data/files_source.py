"""A source over image files, read where they lie."""

import copy
import hashlib
import json
import os
import posixpath
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tqdm import tqdm

from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import first_few, well_formed

# A file up to so long is hashed whole, of a longer one both ends are.
_HASHED_BYTES = 8192
_THREADS = 8
# Files that a thread reads at a time: handing one over costs as much as reading it.
_CHUNK = 64
_BAR_AFTER_SECONDS = 2


class FilesSource:
    """One split of a user's pictures; threads may read it at the same time.

    Attributes:
      name: dataset and split, e.g. "flickr8k/train".
      fingerprint: of each example's path in the root, id and captions, and of the size and the
        first and last 4 KiB of its file. Where a compressed picture differs, its end does, and
        its metadata lie at the start. A copy of the files elsewhere has the same fingerprint.
      selection: see `capjax.data.source.Source`.
    """

    def __init__(
        self,
        name: str,
        root: str,
        examples: Sequence[Example],
        *,
        allow_outside: bool = False,
        selection: Mapping[str, Any] | None = None,
    ):
        """Checks the whole split and reads both ends of every file.

        Args:
          name: see above.
          root: folder of the images.
          examples: `image` is a path in the root, with "/" between folders.
          allow_outside: whether an image may lie outside of the root: by an absolute path, one
            with "..", or a symbolic link that leads there.
          selection: see above.

        Raises:
          DataError: the split is empty, or examples are unusable: a path outside of the root, a
            missing or unreadable file, an image without captions, an id that occurs twice. The
            message names the first ten of each kind.
        """
        self.name = name
        self.selection = dict(selection or {})
        self._root = root
        self._examples = tuple(map(_well_formed, examples))
        if not self._examples:
            raise DataError(
                f"{name} has no images in {root!r}: the list or file that names them has none"
            )
        _raise_problems(name, root, _find_problems(root, self._examples, allow_outside))
        self._digests = _read_digests(name, root, self._examples)
        self.fingerprint = _combine(self._digests)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has no example {index}, only {len(self)}")
        example = self._examples[index]
        return example._replace(image=os.path.join(self._root, example.image))

    def without(self, image_ids: Collection[str]) -> "FilesSource":
        """This source less some images, with the fingerprint that it has when opened without them.

        Raises:
          ValueError: an id is not in this source.
        """
        dropped = set(image_ids)
        if unknown := dropped.difference(example.image_id for example in self._examples):
            raise ValueError(f"{self.name} has no image {first_few(sorted(unknown))}")
        kept = [i for i, example in enumerate(self._examples) if example.image_id not in dropped]
        rest = copy.copy(self)
        rest._examples = tuple(self._examples[i] for i in kept)
        rest._digests = [self._digests[i] for i in kept]
        rest.fingerprint = _combine(rest._digests)
        rest.selection = {**self.selection, "left_out": sorted(dropped)}
        return rest


def _raise_problems(name: str, root: str, problems: Mapping[str, Sequence[str]]) -> None:
    """Raises one DataError for all kinds of problems that have cases."""
    lines = [f"  {len(cases)} {kind}: {first_few(cases)}" for kind, cases in problems.items()]
    if lines:
        raise DataError("\n".join([f"{name} in {root!r} cannot be used:", *lines]))


def _well_formed(example: Example) -> Example:
    image, image_id, captions = example
    return Example(well_formed(image), well_formed(image_id), tuple(map(well_formed, captions)))


def _find_problems(
    root: str, examples: Sequence[Example], allow_outside: bool
) -> dict[str, list[str]]:
    """Cases by kind of problem, without opening an image."""
    counts = Counter(example.image_id for example in examples)
    folders = _Folders(root)
    outside = set()
    if not allow_outside:
        outside = {e.image for e in examples if _is_outside(e.image) or folders.leads_out(e.image)}
    missing = [e.image for e in examples if e.image not in outside and e.image not in folders]
    found = {
        "paths outside of the folder (start from it, with '/', and without '..' or links out of "
        "it; or allow them by --config.dataset.allow_outside=True)": [
            e.image for e in examples if e.image in outside
        ],
        "missing files (add them, correct their names, or point the config at another folder)": (
            missing
        ),
        "images without a caption (add one or leave the image out)": [
            e.image_id for e in examples if not any(map(str.strip, e.captions))
        ],
        "image ids that occur more than once (an image's captions belong together)": [
            image_id for image_id, count in counts.items() if count > 1
        ],
    }
    return {kind: cases for kind, cases in found.items() if cases}


def _is_outside(path: str) -> bool:
    return os.path.isabs(path) or ".." in path.replace("\\", "/").split("/")


class _Folder(NamedTuple):
    """What a folder was found to hold: names of files, and of links; and where it really lies."""

    files: frozenset[str]
    links: frozenset[str]
    place: str | None


class _Folders:
    """Which paths are files, by listing each folder once: far faster than asking for each file."""

    def __init__(self, root: str):
        self._root = root
        self._inside = os.path.realpath(root)
        self._listed: dict[str, _Folder] = {}

    def __contains__(self, path: str) -> bool:
        folder, name = self._split(path)
        # A file system may take another spelling of a name than it lists (macOS: of accents).
        return name in folder.files or os.path.isfile(os.path.join(self._root, path))

    def leads_out(self, path: str) -> bool:
        """Whether a link on the way to a file leads out of the root."""
        folder, name = self._split(path)
        place = folder.place
        if name in folder.links or name not in folder.files:
            place = _real(os.path.join(self._root, path))
        return place is not None and not _is_within(place, self._inside)

    def _split(self, path: str) -> tuple[_Folder, str]:
        """The folder of a path, listed, and the file's name."""
        folder, name = posixpath.split(path)
        if folder not in self._listed:
            self._listed[folder] = _list(os.path.join(self._root, folder))
        return self._listed[folder], name


def _is_within(place: str, folder: str) -> bool:
    return place == folder or place.startswith(os.path.join(folder, ""))


def _list(folder: str) -> _Folder:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.is_file()]
    except (OSError, ValueError):  # ValueError: no file system takes such a name
        found = []
    return _Folder(
        frozenset(entry.name for entry in found),
        frozenset(entry.name for entry in found if entry.is_symlink()),
        _real(folder),
    )


def _real(path: str) -> str | None:
    """Where a path leads; None for a name that no file system takes."""
    try:
        return os.path.realpath(path)
    except ValueError:
        return None


def _read_digests(name: str, root: str, examples: Sequence[Example]) -> list[bytes]:
    """A digest of each example and the ends of its file."""

    def digest(chunk: Sequence[Example]) -> list[bytes | str]:
        return [_digest(root, example) for example in chunk]

    chunks = [examples[i : i + _CHUNK] for i in range(0, len(examples), _CHUNK)]
    results = []
    # On a terminal only, and only where there is something to wait for.
    bar = tqdm(
        total=len(examples),
        desc=f"open {name}",
        disable=None,
        delay=_BAR_AFTER_SECONDS,
        leave=False,
    )
    with bar, ThreadPoolExecutor(_THREADS) as pool:
        for done in pool.map(digest, chunks):
            results += done
            bar.update(len(done))
    if unreadable := [problem for problem in results if isinstance(problem, str)]:
        _raise_problems(name, root, {"files that cannot be read": unreadable})
    return results


def _digest(root: str, example: Example) -> bytes | str:
    """The digest, or what keeps the file from being read."""
    try:
        with open(os.path.join(root, example.image), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            ends = file.read(_HASHED_BYTES // 2)
            file.seek(max(size - _HASHED_BYTES // 2, file.tell()))
            ends += file.read(_HASHED_BYTES // 2)
    except OSError as error:
        return f"{example.image} ({error.strerror})"
    # JSON has no raw line end, so the first one ends it whatever the tail holds.
    text = json.dumps([*example, size])
    return hashlib.sha256(text.encode() + b"\n" + ends).digest()


def _combine(digests: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()
