"""What may happen to a file."""

import json
import os
import random
import shutil
from contextlib import contextmanager

from tests.helpers.effort import few

DEEP = b"[" * 100_000 + b"]" * 100_000

OTHER = (
    b"",
    b"\0" * 100,
    b"null",
    b"[]",
    b"3",
    b'"text"',
    b"{}",
    b"NaN",
    b"[[[]]]",
    b"1" * 5_000,
    b"\xff\xfe{}",
    b"PK\x03\x04 no archive",
    b"\x89HDF\r\n\x1a\n no HDF5",
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999,)}",
    DEEP,
    b'{"a":' * 100_000,
    bytes(random.Random(0).randbytes(500)),
)

VALUES = (None, [], {}, [1, [2]], "", "1", "../x", "\ud800", -1, 0, 1.5, 10**30, float("nan"), True)


def cut(content, count=12):
    """Beginnings of a file: its first bytes, and lengths all over it."""
    drawn = random.Random(1).sample(range(len(content)), min(count, len(content)))
    return [content[:n] for n in sorted({0, 1, 4, 8, 9, len(content) - 1, *few(drawn)})]


def flipped(content, count=30):
    """One flipped bit each, half of them among the first 400 bytes, where headers are."""
    drawn = random.Random(2)
    found = []
    for number in few(range(count)):
        damaged = bytearray(content)
        place = drawn.randrange(min(len(content), 400) if number % 2 else len(content))
        damaged[place] ^= 1 << drawn.randrange(8)
        found.append(bytes(damaged))
    return found


def of_other_kinds(content):
    """A JSON file with one value after the other replaced by ones of other kinds, or left out."""
    for number, path in enumerate(_paths(json.loads(content))):
        # Every day each place takes a third of the values, and each value a third of the places.
        for value in few([*VALUES, _ABSENT][number % 3 :]):
            changed = json.loads(content)
            parent = changed
            for part in path[:-1]:
                parent = parent[part]
            if value is _ABSENT:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            yield path, value, json.dumps(changed).encode()


_ABSENT = object()


def _paths(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in items:
        yield (*path, name)
        if isinstance(item, dict | list):
            yield from _paths(item, (*path, name))


@contextmanager
def replaced(path, content):
    """The file with other content, a folder where that is None; put back afterwards."""
    aside = f"{path}.aside"
    os.rename(path, aside)
    try:
        if content is None:
            os.mkdir(path)
        else:
            with open(path, "wb") as file:
                file.write(content)
        yield
    finally:
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        os.rename(aside, path)
