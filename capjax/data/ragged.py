"""Captions of images in one flat array, as token ids or as text.

Ten million captions as Python objects of their own take gigabytes and minutes to make; flat arrays
are read from a file as they are.

I counts the images, N the captions.
"""

import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

# As many as a tokenizer encodes at once.
_BLOCK = 10_000


class Ragged(Sequence):
    """A sequence whose item i is a tuple of the captions of image i, each a view of `flat`.

    Attributes:
      counts: int32 [I], captions of each image.
      lengths: int32 [N], elements of each caption.
      flat: the elements of all captions, [sum of lengths].
    """

    def __init__(self, counts: np.ndarray, lengths: np.ndarray, flat: np.ndarray):
        """Takes the arrays, without a copy of `flat`.

        Raises:
          ValueError: they do not fit together.
        """
        self.counts, self.lengths = np.asarray(counts, np.int32), np.asarray(lengths, np.int32)
        self.flat = flat
        for what, parts, whole in (
            ("captions", self.counts, len(self.lengths)),
            ("elements", self.lengths, len(flat)),
        ):
            if parts.min(initial=0) < 0 or parts.sum(dtype=np.int64) != whole:
                raise ValueError(f"the numbers of {what} are not those of {whole} {what}")
        self._first = _sums(self.counts)
        self._start = _sums(self.of_images(np.add, self.lengths))

    @classmethod
    def of(cls, nested: Iterable[Iterable[np.ndarray]], dtype: Any = np.int32) -> "Ragged":
        """Copies the captions of each image into one array of `dtype`."""
        images = [list(captions) for captions in nested]
        every = [np.asarray(ids, dtype) for captions in images for ids in captions]
        flat = np.concatenate([np.zeros(0, dtype), *every])
        return cls(_integers(map(len, images)), _integers(map(len, every)), flat)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, place):
        """The captions of an image; of a slice, a tuple with those of each image."""
        if isinstance(place, slice):
            return tuple(self[image] for image in range(*place.indices(len(self))))
        image = operator.index(place)
        image += len(self) if image < 0 else 0
        if not 0 <= image < len(self):
            raise IndexError(f"there is no image {place} among {len(self)}")
        end, captions = int(self._start[image]), []
        for length in self.lengths[self._first[image] : self._first[image + 1]].tolist():
            captions.append(self.flat[end : end + length])
            end += length
        return tuple(captions)

    def __eq__(self, other):
        """Whether the other has equal captions, a `Ragged` or a tuple of tuples of arrays."""
        if isinstance(other, Ragged):
            pairs = zip(self.arrays().values(), other.arrays().values(), strict=True)
            return all(np.array_equal(*pair) for pair in pairs)
        if isinstance(other, tuple):
            return self.counts.tolist() == [len(captions) for captions in other] and all(
                np.array_equal(*pair)
                for images in zip(self, other, strict=True)
                for pair in zip(*images, strict=True)
            )
        return NotImplemented

    __hash__ = None

    def arrays(self) -> dict[str, np.ndarray]:
        """The attributes by name, from which `Ragged(**arrays)` is made again."""
        return {"counts": self.counts, "lengths": self.lengths, "flat": self.flat}

    def of_images(self, combine: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Combines numbers of each caption, [N], by image: int64 [I], 0 where there is no caption.

        Args:
          combine: such as np.add or np.maximum.
          values: [N].
        """
        found = np.zeros(len(self), np.int64)
        some = self.counts > 0
        if some.any():
            # Of an image without captions, reduceat would give the next image's first number.
            found[some] = combine.reduceat(values, self._first[:-1][some], dtype=np.int64)
        return found

    def select(self, kept: np.ndarray) -> "Ragged":
        """Copies the captions of which `kept`, bool [N], is true; images without any stay."""
        flat = self.flat[np.repeat(kept, self.lengths)]
        return Ragged(self.of_images(np.add, kept), self.lengths[kept], flat)


class Texts(Sequence):
    """A sequence whose item i is a tuple of the texts of image i.

    Attributes:
      utf8: their bytes; lone surrogates, which JSON may contain, are kept.
    """

    def __init__(self, utf8: Ragged):
        """Takes bytes as `Texts.utf8` has them."""
        self.utf8 = utf8
        self._bytes = memoryview(utf8.flat)

    @classmethod
    def of(cls, nested: Iterable[Iterable[str]]) -> "Texts":
        """Takes the texts of each image, in one pass."""
        counts, lengths, flat = array("i"), array("i"), bytearray()
        for texts in nested:
            before = len(lengths)
            for text in texts:
                content = text.encode("utf-8", "surrogatepass")
                lengths.append(len(content))
                flat += content
            counts.append(len(lengths) - before)
        parts = (np.frombuffer(part, np.int32) for part in (counts, lengths))
        return cls(Ragged(*parts, np.frombuffer(flat, np.uint8)))

    def __len__(self) -> int:
        return len(self.utf8)

    def __getitem__(self, place):
        """The texts of an image; of a slice, a tuple with those of each image."""
        found = self.utf8[place]
        if isinstance(place, slice):
            return tuple(tuple(map(_text, image)) for image in found)
        return tuple(map(_text, found))

    def __eq__(self, other):
        """Whether the other has equal texts, a `Texts` or a tuple of tuples of them."""
        if isinstance(other, Texts):
            return self.utf8 == other.utf8
        if isinstance(other, tuple):
            return len(self) == len(other) and all(map(operator.eq, self, other))
        return NotImplemented

    __hash__ = None

    def blocks(self, size: int = _BLOCK) -> Iterator[list[str]]:
        """Yields all texts in order, `size` at a time."""
        end = 0
        for first in range(0, len(self.utf8.lengths), size):
            block = []
            for length in self.utf8.lengths[first : first + size].tolist():
                block.append(_text(self._bytes[end : end + length]))
                end += length
            yield block


def _text(content) -> str:
    return str(content, "utf-8", "surrogatepass")


def _integers(numbers: Iterable[int]) -> np.ndarray:
    return np.fromiter(numbers, np.int32)


def _sums(numbers: np.ndarray) -> np.ndarray:
    """int64 [len(numbers) + 1], the sum of all numbers before each place."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(numbers, dtype=np.int64)])
