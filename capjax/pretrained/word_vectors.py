"""Pretrained word vectors for a decoder's embedding, read from a text file.

A line holds a word and its numbers, as GloVe writes it (Pennington et al. 2014); word2vec (Mikolov
et al. 2013) and fastText (Bojanowski et al. 2017) put a line "count width" before the first. The
file is read a line at a time and only the vocabulary's rows are kept. Legend: V vocabulary.
"""

import codecs
import dataclasses
import functools
import gzip
import io
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from capjax.files.text import first_few
from capjax.pretrained.errors import WeightsError

# Of a line without an end: 300 numbers take 3 kB.
_LONGEST_LINE = 1 << 20
_LINES_BETWEEN_UPDATES = 1000


@dataclasses.dataclass(frozen=True)
class WordVectors:
    """The rows of a file that a vocabulary has use for.

    Attributes:
      values: float32 [V, width], zero where a word is missing.
      found: bool [V].
      words: the text of each token id, None for special tokens.
      path: of the file.
    """

    values: np.ndarray
    found: np.ndarray
    words: tuple[str | None, ...]
    path: str

    @property
    def coverage(self) -> float:
        """The share of the vocabulary's words that the file has; special tokens are no words."""
        return float(self.found.sum() / self._is_word.sum())

    @property
    def _is_word(self) -> np.ndarray:
        return np.array([word is not None for word in self.words])

    def summary(self, counts: np.ndarray) -> str:
        """One line for a log, from the count of each token in the train split, float [V]."""
        tokens = counts[self.found].sum() / counts[self._is_word].sum()
        text = (
            f"{os.path.basename(self.path)}: {self.found.sum()} of {self._is_word.sum()} words "
            f"({100 * self.coverage:.1f}%), {100 * tokens:.1f}% of the train split's tokens"
        )
        missing = np.flatnonzero(self._is_word & ~self.found)
        if not len(missing):
            return text
        ranked = missing[np.argsort(-counts[missing], kind="stable")]
        return f"{text}; missing most often: {first_few([self.words[i] for i in ranked])}"


def load_word_vectors(
    path: str | os.PathLike, words: Sequence[str | None], width: int
) -> WordVectors:
    """Reads the vectors of a vocabulary's words.

    A word takes the row of its own spelling, else the first row that is spelt so in lower case:
    vocabularies are in lower case and not all files are. Of a word's rows the first counts.

    Args:
      path: a text file of GloVe, word2vec or fastText, plain or gzipped.
      words: the text of each token id, None for special tokens.
      width: of the embedding.

    Raises:
      WeightsError: there is no such file, it is no text, its vectors are not `width` wide, a line
        does not hold finite numbers, or it has no word of the vocabulary. The message names the
        file, and the line.
    """
    path = os.path.expanduser(os.fspath(path))
    if not os.path.isfile(path):
        raise WeightsError(f"{path}: no such file of word vectors")
    try:
        with open(path, "rb") as file:
            rows = _read_rows(file, path, {word for word in words if word is not None}, width)
    except (EOFError, OSError, zlib.error) as error:
        raise WeightsError(
            f"{path}: cannot be read to its end ({error}); if it was downloaded, fetch it again"
        ) from error
    if not rows:
        real = [word for word in words if word is not None]
        raise WeightsError(
            f"{path}: has a vector for none of the vocabulary's words ({first_few(real)}); give "
            "vectors of the captions' language"
        )
    found = np.array([word in rows for word in words])
    values = np.zeros((len(words), width), np.float32)
    values[found] = [rows[word] for word in words if word in rows]
    return WordVectors(values, found, tuple(words), path)


def fill_rows(embedding: np.ndarray, vectors: WordVectors) -> np.ndarray:
    """An embedding with the rows that were found; the others stay as they were drawn.

    Neither is rescaled: a fresh row keeps the scale of its initializer, not of the file.

    Args:
      embedding: [V, width], freshly drawn.
      vectors: of the same vocabulary and width.

    Returns:
      A new array of the embedding's shape and type.

    Raises:
      ValueError: the shapes differ.
    """
    if embedding.shape != vectors.values.shape:
        raise ValueError(
            f"word vectors {list(vectors.values.shape)} for an embedding {list(embedding.shape)}"
        )
    return np.where(vectors.found[:, None], vectors.values, embedding).astype(embedding.dtype)


def _read_rows(
    file: io.BufferedReader, path: str, wanted: set[str], width: int
) -> dict[str, np.ndarray]:
    """The float32 [width] of each wanted word that an open file has."""
    lines = _progress(file, path, _open_text(file, path))
    first = next(lines, b"").removeprefix(codecs.BOM_UTF8)
    _check_width(first, path, width)
    rows, lowered = {}, {}
    start = 2 if _is_header(first) else 1
    if start == 1:
        lines = itertools.chain([first], lines)
    for number, line in enumerate(lines, start):
        if not line:
            continue
        # Counting is the fast way; pieces apart by tabs are counted by the slow one.
        if line.count(b" ") < width and len(line.split()) <= width:
            raise _too_short(line, width, f"{path}: line {number}")
        # The first piece decides for most lines. A byte that is no UTF-8 becomes what no word has.
        piece = line.split(None, 1)[0].decode("utf-8", errors="surrogateescape")
        lower = piece.lower()
        found = rows if piece in wanted else lowered
        key = piece if piece in wanted else lower
        if key in wanted and key not in found:
            vector = _vector(line, width, f"{path}: line {number}")
            if vector is not None:
                found[key] = vector
    return {**lowered, **rows}


def _open_text(file: io.BufferedReader, path: str) -> io.BufferedReader:
    """The file's text, unpacked where it is gzipped.

    Raises:
      WeightsError: what is there is no text.
    """
    stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file
    start = stream.peek(4096)[:4096]
    if start[:4] == b"PK\x03\x04":
        raise WeightsError(f"{path}: is a zip archive; unpack it and give the text file inside")
    if b"\0" in start:
        raise WeightsError(
            f"{path}: is a binary file; convert it to text, one of word2vec for example by gensim: "
            "KeyedVectors.load_word2vec_format(FILE, binary=True).save_word2vec_format('FILE.txt')"
        )
    return stream


def _progress(file: io.BufferedReader, path: str, stream: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a stream without their ends, and a bar of the file's bytes on a terminal."""
    name = os.path.basename(path)
    size = os.path.getsize(path)
    with tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        lines = iter(functools.partial(stream.readline, _LONGEST_LINE), b"")
        for number, line in enumerate(lines):
            if number % _LINES_BETWEEN_UPDATES == 0:
                bar.update(file.tell() - bar.n)
            yield line.rstrip()
        bar.update(size - bar.n)


def _is_header(line: bytes) -> bool:
    """Whether a first line is word2vec's "count width"."""
    fields = line.split()
    return len(fields) == 2 and all(f.isdigit() and len(f) < 19 for f in fields)


def _check_width(first: bytes, path: str, width: int) -> None:
    """Raises WeightsError where a file's first line says another width than the embedding's."""
    fields = first.split()
    if _is_header(first):
        found = int(fields[1])
    else:
        # As many as end the line, since the word may have spaces.
        found = len(list(itertools.takewhile(_is_number, reversed(fields[1:]))))
        if not found or any(map(_is_number, fields[1:-found])):
            raise WeightsError(
                f"{path}: line 1 is no word with numbers: {_start_of(first)}; give a text file of "
                "GloVe, word2vec or fastText"
            )
    if found != width:
        raise WeightsError(
            f"{os.path.basename(path)} has vectors of {found} numbers and the embedding is {width} "
            f"wide: set config.decoder.embed_dim={found} or give another file"
        )


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _vector(line: bytes, width: int, where: str) -> np.ndarray | None:
    """The numbers of a line, float32 [width]; None where its word has a space.

    Some words of glove.840B do, so the numbers are the last pieces of a line.

    Raises:
      WeightsError: it has too few or too many numbers, or one that is none or not finite.
    """
    word, *numbers = line.rsplit(None, width)
    if len(numbers) < width:
        raise _too_short(line, width, where)
    rest = word.split()[1:]
    if rest and all(map(_is_number, rest)):
        raise WeightsError(f"{where} has more than {width} numbers: {_start_of(line)}")
    if rest:
        return None
    try:
        found = np.array([float(number) for number in numbers])
    except ValueError as error:
        start = _start_of(line)
        raise WeightsError(f"{where} is no word with numbers ({error}): {start}") from error
    # What is beyond float32 is infinite to a model, too.
    if not (np.abs(found) <= np.finfo(np.float32).max).all():
        raise WeightsError(f"{where} has a number that is not finite: {_start_of(line)}")
    return found.astype(np.float32)


def _too_short(line: bytes, width: int, where: str) -> WeightsError:
    return WeightsError(
        f"{where} has {len(line.split()) - 1} numbers and not {width}: {_start_of(line)}; the file "
        "may be cut off"
    )


def _start_of(line: bytes) -> str:
    return repr(line[:60].decode("utf-8", errors="replace"))
