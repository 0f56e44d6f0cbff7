"""A source of image files, read in place."""

import copy
import hashlib
import json
import logging
import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tqdm import tqdm

from capjax.data.source import Example
from capjax.files.errors import DataError
from capjax.files.text import composed, first_few, well_formed

# Of a file that compresses an image as a whole, both ends are hashed, this much together: a change
# changes what follows it, the file's size, or a checksum at the end. All others are hashed whole,
# which takes as long as reading them.
_HASHED_BYTES = 8192
_COMPRESSED = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|RIFF....WEBP", re.DOTALL)
_READ_BYTES = 1 << 20
_THREADS = 8
# Files in a thread's task: handing over one file alone costs as much as its reading.
_CHUNK = 64
_BAR_AFTER_SECONDS = 2

_logger = logging.getLogger(__name__)


class FilesSource:
    """One split of a user's images; thread-safe.

    Attributes:
      name: dataset and split, e.g. "flickr8k/train".
      fingerprint: digest of each example's path in the root, id and captions, and of its file: the
        size and the first and last 4 KiB of a JPEG, PNG or WebP, all bytes of another. A copy of
        the files elsewhere has the same fingerprint.
      former_fingerprint: by the rule of earlier versions: both ends of every file.
      selection: see `capjax.data.source.Source`.
    """

    def __init__(
        self,
        name: str,
        root: str,
        examples: Sequence[Example],
        *,
        allow_outside: bool = False,
        skip: bool = False,
        selection: Mapping[str, Any] | None = None,
    ):
        """Checks the whole split and reads every file for the fingerprint.

        Args:
          name: see above.
          root: folder of the images.
          examples: `image` is a path relative to the root, with "/" between folders. Where there is
            no such file, "\\" is taken as "/", and a name that Unicode counts as the same is found.
          allow_outside: whether images may lie outside the root: by an absolute path, "..", or a
            symbolic link.
          skip: whether images that are missing or have no caption are left out, and counted in the
            log, as long as others are there.
          selection: see above.

        Raises:
          DataError: the split is empty, or examples cannot be used: a path outside the root, a
            missing or unreadable file, an image without captions, a repeated id. The message names
            the first ten of each kind.
        """
        self.name = name
        self.selection = dict(selection or {})
        self._root = root
        self._examples = tuple(map(_well_formed, examples))
        if not self._examples:
            raise DataError(
                f"{name} has no images in {root!r}: the list or file that names them has none"
            )
        folders = _Folders(root)
        self._paths = [folders.find(example.image) for example in self._examples]
        if skip:
            self._leave_out()
        problems = _find_problems(folders, self._examples, self._paths, allow_outside)
        _raise_problems(name, root, problems)
        self._digests = _read_digests(name, root, self._examples, self._paths)
        self.fingerprint, self.former_fingerprint = _combine(self._digests)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has no example {index}, only {len(self)}")
        return self._examples[index]._replace(image=os.path.join(self._root, self._paths[index]))

    def without(self, image_ids: Collection[str]) -> "FilesSource":
        """This source without some images, with the fingerprint of a source opened without them.

        Raises:
          ValueError: an id is not in this source.
        """
        dropped = set(image_ids)
        if unknown := dropped.difference(example.image_id for example in self._examples):
            raise ValueError(f"{self.name} has no image {first_few(sorted(unknown))}")
        kept = [i for i, example in enumerate(self._examples) if example.image_id not in dropped]
        rest = copy.copy(self)
        rest._digests = [self._digests[i] for i in kept]
        rest._keep(kept)
        rest.fingerprint, rest.former_fingerprint = _combine(rest._digests)
        return rest

    def _keep(self, kept: Sequence[int]) -> None:
        dropped = {example.image_id for example in self._examples}
        self._examples = tuple(self._examples[i] for i in kept)
        self._paths = [self._paths[i] for i in kept]
        dropped -= {example.image_id for example in self._examples}
        before = self.selection.get("left_out", ())
        self.selection = {**self.selection, "left_out": sorted({*before, *dropped})}

    def _leave_out(self) -> None:
        """Leaves out images that are missing or have no caption, unless all are."""
        outside = {i for i, example in enumerate(self._examples) if _is_outside(example.image)}
        missing = {i for i, path in enumerate(self._paths) if path is None} - outside
        bare = {i for i, e in enumerate(self._examples) if not _has_caption(e)} - missing
        kept = [i for i in range(len(self)) if i not in missing | bare]
        for what, images in {"whose files are missing": missing, "without a caption": bare}.items():
            if kept and images:
                named = first_few([self._examples[i].image for i in sorted(images)])
                _logger.info(
                    "%s: left out %d of %d images %s: %s",
                    *(self.name, len(images), len(self), what, named),
                )
        if 0 < len(kept) < len(self):
            self._keep(kept)


class _Digests(NamedTuple):
    """Of an example, by the rules of `fingerprint` and of `former_fingerprint`."""

    now: bytes
    former: bytes


def _raise_problems(name: str, root: str, problems: Mapping[str, Sequence[str]]) -> None:
    """Raises one DataError that lists all kinds of problems, if there are any."""
    lines = [f"  {len(cases)} {kind}: {first_few(cases)}" for kind, cases in problems.items()]
    if lines:
        raise DataError("\n".join([f"{name} in {root!r} cannot be used:", *lines]))


def _well_formed(example: Example) -> Example:
    image, image_id, captions = example
    return Example(well_formed(image), well_formed(image_id), tuple(map(well_formed, captions)))


def _has_caption(example: Example) -> bool:
    return any(map(str.strip, example.captions))


def _find_problems(
    folders: "_Folders",
    examples: Sequence[Example],
    paths: Sequence[str | None],
    allow_outside: bool,
) -> dict[str, list[str]]:
    """Finds examples that cannot be used, by kind of problem, without opening a file."""
    counts = Counter(example.image_id for example in examples)
    outside, missing = set(), []
    for (image, *_), path in zip(examples, paths, strict=True):
        if not allow_outside and (_is_outside(image) or folders.leads_out(path or image)):
            outside.add(image)
        elif path is None:
            missing.append(image)
    found = {
        "paths outside the folder (use relative paths without '..' and without links out of it, or "
        "allow them with --config.dataset.allow_outside=True)": [
            e.image for e in examples if e.image in outside
        ],
        "missing files (add them, correct their names, point the config at another folder, or "
        "leave them out with --config.dataset.bad_images=skip)": missing,
        "images without a caption (add one or leave the image out)": [
            e.image_id for e in examples if not _has_caption(e)
        ],
        "image ids that occur more than once (an image's captions belong together)": [
            image_id for image_id, count in counts.items() if count > 1
        ],
    }
    return {kind: cases for kind, cases in found.items() if cases}


def _is_outside(path: str) -> bool:
    return os.path.isabs(path) or ".." in path.replace("\\", "/").split("/")


class _Folder(NamedTuple):
    """The names of a folder's files and of those that are links, and the folder's real path."""

    files: frozenset[str]
    links: frozenset[str]
    place: str | None


class _Folders:
    """Finds files by listing each folder once, far faster than asking for each file."""

    def __init__(self, root: str):
        self._root = root
        self._inside = os.path.realpath(root)
        self._listed: dict[str, _Folder] = {}
        self._spellings: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """The path as its folders list it; None where there is no such file."""
        if self._has(path):
            return path
        place = ""
        for part in path.replace("\\", "/").split("/"):
            place = posixpath.join(place, self._spelled(place).get(composed(part), part))
        return place if not posixpath.isabs(path) and self._has(place) else None

    def _spelled(self, folder: str) -> dict[str, str]:
        """What a folder has, by its composed name."""
        if folder not in self._spellings:
            try:
                names = os.listdir(os.path.join(self._root, folder))
            except (OSError, ValueError):
                names = []
            self._spellings[folder] = {composed(name): name for name in names}
        return self._spellings[folder]

    def _has(self, path: str) -> bool:
        folder, name = self._split(path)
        # Some file systems accept other spellings of a name than they list (macOS: of accents).
        return name in folder.files or os.path.isfile(os.path.join(self._root, path))

    def leads_out(self, path: str) -> bool:
        """True where a link in the path leads out of the root."""
        folder, name = self._split(path)
        place = folder.place
        if name in folder.links or name not in folder.files:
            place = _real(os.path.join(self._root, path))
        return place is not None and not _is_within(place, self._inside)

    def _split(self, path: str) -> tuple[_Folder, str]:
        """The listed folder of a path, and the file's name."""
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
    except (OSError, ValueError):  # ValueError: the name has a null character
        found = []
    return _Folder(
        frozenset(entry.name for entry in found),
        frozenset(entry.name for entry in found if entry.is_symlink()),
        _real(folder),
    )


def _real(path: str) -> str | None:
    """The path without links; None for a name with a null character."""
    try:
        return os.path.realpath(path)
    except ValueError:
        return None


def _read_digests(
    name: str, root: str, examples: Sequence[Example], paths: Sequence[str]
) -> list[_Digests]:
    """Digests of all examples and their files, which lie at `paths` in the root."""

    def digest(chunk: range) -> list[_Digests | str]:
        return [_digest(os.path.join(root, paths[i]), examples[i]) for i in chunk]

    every = range(len(examples))
    chunks = [every[i : i + _CHUNK] for i in every[::_CHUNK]]
    results = []
    # disable=None: only on a terminal.
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


def _digest(path: str, example: Example) -> _Digests | str:
    """The digests, or the reason why the file cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            start = file.read(_HASHED_BYTES // 2)
            # JSON has no raw line end, so the first one separates it from the file's bytes.
            ends = hashlib.sha256(json.dumps([*example, size]).encode() + b"\n" + start)
            whole = ends.copy()
            if not _COMPRESSED.match(start):
                while part := file.read(_READ_BYTES):
                    whole.update(part)
            file.seek(max(size - _HASHED_BYTES // 2, len(start)))
            ends.update(file.read(_HASHED_BYTES // 2))
    except OSError as error:
        return f"{example.image} ({error.strerror})"
    former = ends.digest()
    return _Digests(former if _COMPRESSED.match(start) else whole.digest(), former)


def _combine(digests: Sequence[_Digests]) -> list[str]:
    """The fingerprint and the former fingerprint of a source."""
    return [hashlib.sha256(b"".join(part)).hexdigest() for part in zip(*digests, strict=True)]
