"""Raw captions of a source, and their token ids with a report of what was left out."""

import itertools
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from capjax.data.ragged import Ragged, Texts
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.files.arrays import read_arrays, write_arrays

_FORMAT = "capjax captions 2"
_COUNTED = 2**22


@dataclass(frozen=True)
class CaptionTable:
    """The ids and raw captions of a source, in its order.

    Attributes:
      image_ids: one unique id an image.
      captions: the raw captions of each image; nested sequences become `Texts`.
      fingerprint: the source's.
    """

    image_ids: tuple[str, ...]
    captions: Texts
    fingerprint: str

    def __post_init__(self):
        if not isinstance(self.captions, Texts):
            object.__setattr__(self, "captions", Texts.of(self.captions))
        if len(self.image_ids) != len(self.captions):
            raise ValueError(
                f"{len(self.image_ids)} image ids but captions of {len(self.captions)} images"
            )
        if len(set(self.image_ids)) != len(self.image_ids):
            (image_id, count), *_ = Counter(self.image_ids).most_common(1)
            raise ValueError(f"image id {image_id!r} occurs {count} times; ids must be unique")


def read_captions(source: Source, cache_dir: str | os.PathLike | None) -> CaptionTable:
    """Reads the id and captions of every example, or a cached file of them.

    Without a cached file all records of a TFDS dataset are read. With a `cache_dir` they are saved
    there as a safetensors file keyed by the source's fingerprint. A file that is damaged or belongs
    to another source is ignored and written again.

    Raises:
      DataError: the cached file cannot be written.
      ValueError: two examples have the same image id; the message names it.
    """
    path = Path(cache_dir) / f"captions-{source.fingerprint}.safetensors" if cache_dir else None
    table = _load_table(path, source) if path else None
    if table is None:
        image_ids: list[str] = []

        def captions() -> Iterator[tuple[str, ...]]:
            # disable=None: only on a terminal, because in a log file a bar is a thousand lines.
            for i in tqdm(range(len(source)), desc=f"captions of {source.name}", disable=None):
                _, image_id, of_image = source[i]
                image_ids.append(image_id)
                yield of_image

        texts = Texts.of(captions())
        table = CaptionTable(tuple(image_ids), texts, source.fingerprint)
        if path:
            ids = Texts.of([image_ids]).utf8
            write_arrays(
                path,
                {"format": _FORMAT, "fingerprint": source.fingerprint},
                {**texts.utf8.arrays(), "ids": ids.flat, "id_lengths": ids.lengths},
            )
    return table


def _load_table(path: Path, source: Source) -> CaptionTable | None:
    """The table in `path`; None where the file is missing, damaged or another source's."""
    about, arrays = read_arrays(path) or ({}, {})
    if about != {"format": _FORMAT, "fingerprint": source.fingerprint}:
        return None
    ids, lengths = arrays.pop("ids"), arrays.pop("id_lengths")
    if not len(lengths) == len(arrays["counts"]) == len(source):
        return None
    blocks = Texts(Ragged([len(lengths)], lengths, ids)).blocks()
    image_ids = tuple(itertools.chain.from_iterable(blocks))
    return CaptionTable(image_ids, Texts(Ragged(**arrays)), source.fingerprint)


@dataclass(frozen=True)
class CaptionReport:
    """Counts of the captions of a source that were encoded, cut or left out.

    Attributes:
      images: images in the source.
      captions: captions in the source.
      kept: encoded captions; captions == kept + dropped + empty.
      dropped: captions left out because they are too long.
      cut: kept captions that were shortened.
      empty: captions left out because they have no word.
      bare_images: images without a kept caption, which training leaves out.
      bare_image_ids: the first five of their ids.
      words: words of the kept captions, with unknown ones and without eos.
      unknown: words among them that are not in the vocabulary.
      frequent_unknown: the ten most frequent unknown words with their counts.
      lengths: int64 [max_length + 1], number of kept captions of each length in tokens with eos.
    """

    images: int
    captions: int
    kept: int
    dropped: int
    cut: int
    empty: int
    bare_images: int
    bare_image_ids: tuple[str, ...]
    words: int
    unknown: int
    frequent_unknown: tuple[tuple[str, int], ...]
    lengths: np.ndarray

    @property
    def unknown_share(self) -> float:
        """Unknown words over all words, in [0, 1]."""
        return self.unknown / max(self.words, 1)

    def summary(self) -> str:
        """The report in two or three lines of text."""
        mean = float(self.lengths @ np.arange(len(self.lengths))) / max(self.kept, 1)
        lines = [
            f"{self.kept} of {self.captions} captions of {self.images} images: {self.dropped} too "
            f"long, {self.empty} without a word, {self.cut} cut; {mean:.1f} tokens on average, "
            f"{max(np.flatnonzero(self.lengths), default=0)} at most",
            f"{self.unknown} of {self.words} words unknown ({self.unknown_share:.2%})",
        ]
        if self.frequent_unknown:
            words = ", ".join(f"{word} {count}" for word, count in self.frequent_unknown)
            lines[-1] += f", most often: {words}"
        if self.bare_images:
            more = ", ..." if self.bare_images > len(self.bare_image_ids) else ""
            ids = ", ".join(self.bare_image_ids) + more
            lines.append(f"{self.bare_images} images have no caption left: {ids}")
        return "\n".join(lines)


@dataclass(frozen=True)
class EncodedCaptions:
    """Token ids of a source's captions.

    Attributes:
      image_ids: as in the table.
      tokens: the captions of each image, each int32 [length] "prompt words ... eos" without bos;
        nested sequences become a `Ragged`.
      max_length: most tokens of a caption, with prompt and eos.
      fingerprint: the source's.
      report: counts of the captions kept and left out.
      prompt: tokens of the prompt, with which every caption begins.
    """

    image_ids: tuple[str, ...]
    tokens: Ragged
    max_length: int
    fingerprint: str
    report: CaptionReport
    prompt: int = 0

    def __post_init__(self):
        if not isinstance(self.tokens, Ragged):
            object.__setattr__(self, "tokens", Ragged.of(self.tokens))

    @cached_property
    def most_captions(self) -> int:
        """The most captions of an image."""
        return int(self.tokens.counts.max(initial=0))


def encode_captions(
    table: CaptionTable,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    over_length: str,
    prompt: str = "",
) -> EncodedCaptions:
    """Encodes all captions except those without a word.

    Args:
      table: the captions.
      tokenizer: encodes unknown words as unk.
      max_length: most tokens of a caption, with prompt and eos.
      over_length: for longer captions: "drop" leaves them out, "cut" keeps the first
        max_length - 1 words and adds eos.
      prompt: words to put before every caption; "" for none.

    Raises:
      ValueError: `over_length` is something else, or `max_length` leaves no room for a word and
        eos.
    """
    if over_length not in ("drop", "cut"):
        raise ValueError(f'over_length must be "drop" or "cut", not {over_length!r}')
    first = len(tokenizer.encode(prompt))
    if max_length < first + 2:
        raise ValueError(
            f"max_length must be at least {first + 2}, a word and eos"
            + f" after the prompt {prompt!r}" * bool(prompt)
            + f", not {max_length}"
        )
    before = f"{prompt} " if prompt else ""
    found, kept, lengths = array("i"), array("b"), array("i")
    empty = long = 0
    unknown: Counter[str] = Counter()
    # In blocks, because the ids are far larger as lists than as an array.
    for block in table.captions.blocks():
        texts = [before + text for text in block]
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            empty += len(ids) <= first
            long += len(ids) >= max_length
            keep = len(ids) > first and (over_length == "cut" or len(ids) < max_length)
            kept.append(keep)
            if not keep:
                continue
            if tokenizer.unk_id in ids:  # Words that are cut off do not count.
                unknown.update(tokenizer.unknown(text, max_length - 1))
            ids = [*ids[: max_length - 1], tokenizer.eos_id]
            found.extend(ids)
            lengths.append(len(ids))
    counts = table.captions.utf8.of_images(np.add, np.frombuffer(kept, np.int8))
    tokens = Ragged(counts, np.frombuffer(lengths, np.int32), np.frombuffer(found, np.int32))
    bare = np.flatnonzero(counts == 0)
    by_length = np.bincount(tokens.lengths, minlength=max_length + 1)
    report = CaptionReport(
        images=len(tokens),
        captions=len(kept),
        kept=len(lengths),
        dropped=long if over_length == "drop" else 0,
        cut=long if over_length == "cut" else 0,
        empty=empty,
        bare_images=len(bare),
        bare_image_ids=tuple(table.image_ids[i] for i in bare[:5]),
        words=int(by_length @ np.arange(max_length + 1) - (1 + first) * by_length.sum()),
        unknown=unknown.total(),
        frequent_unknown=tuple(sorted(unknown.items(), key=lambda item: (-item[1], item[0]))[:10]),
        lengths=by_length,
    )
    return EncodedCaptions(table.image_ids, tokens, max_length, table.fingerprint, report, first)


def unigram_counts(encoded: EncodedCaptions, vocab_size: int) -> np.ndarray:
    """Counts each token as a target: float64 [V], words and eos of all captions.

    A decoder's output bias can start from the logarithm of each token's share.

    Raises:
      ValueError: a token is not below `vocab_size`.
    """
    tokens = encoded.tokens
    counts = _counts(tokens.flat, vocab_size)
    starts = np.cumsum(tokens.lengths, dtype=np.int64) - tokens.lengths
    for place in range(encoded.prompt):
        counts -= _counts(tokens.flat[starts + place], len(counts))
    if len(counts) > vocab_size:
        raise ValueError(
            f"token {len(counts) - 1} is not below vocab_size {vocab_size}: "
            "were the captions encoded with another tokenizer?"
        )
    return counts.astype(np.float64)


def _counts(tokens: np.ndarray, size: int) -> np.ndarray:
    """How often each token occurs, int64 [size] or more; in parts, which NumPy copies as int64."""
    size = max(size, int(tokens.max(initial=0)) + 1)
    counts = np.zeros(size, np.int64)
    for first in range(0, len(tokens), _COUNTED):
        counts += np.bincount(tokens[first : first + _COUNTED], minlength=size)
    return counts
