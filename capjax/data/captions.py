"""Raw captions of a source, and their token ids with a report of what was left out."""

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer
from capjax.files.atomic import read_cached, write_cached

_FORMAT = "capjax captions 1"


@dataclass(frozen=True)
class CaptionTable:
    """The ids and raw captions of a source, in its order.

    Attributes:
      image_ids: one unique id an image.
      captions: the raw captions of each image.
      fingerprint: the source's.
    """

    image_ids: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    fingerprint: str

    def __post_init__(self):
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
    there as a JSON file keyed by the source's fingerprint. A file that is damaged or belongs to
    another source is ignored and written again.

    Raises:
      ValueError: two examples have the same image id; the message names it.
    """
    path = Path(cache_dir) / f"captions-{source.fingerprint}.json" if cache_dir else None
    table = _load_table(path, source) if path else None
    if table is None:
        # disable=None: only on a terminal, because in a log file a bar is a thousand lines.
        bar = tqdm(range(len(source)), desc=f"captions of {source.name}", disable=None)
        examples = [source[i][1:] for i in bar]
        table = CaptionTable(
            image_ids=tuple(image_id for image_id, _ in examples),
            captions=tuple(tuple(captions) for _, captions in examples),
            fingerprint=source.fingerprint,
        )
        if path:
            content = {"image_ids": table.image_ids, "captions": table.captions}
            write_cached(path, {"format": _FORMAT, "fingerprint": source.fingerprint, **content})
    return table


def _load_table(path: Path, source: Source) -> CaptionTable | None:
    """The table in `path`; None where the file is missing, damaged or another source's."""
    content = read_cached(path)
    if content is None or (content["format"], content["fingerprint"]) != (
        _FORMAT,
        source.fingerprint,
    ):
        return None
    table = CaptionTable(
        image_ids=tuple(content["image_ids"]),
        captions=tuple(map(tuple, content["captions"])),
        fingerprint=source.fingerprint,
    )
    return table if len(table.image_ids) == len(source) else None


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
      tokens: the captions of each image, each int32 [length] "prompt words ... eos" without bos.
      max_length: most tokens of a caption, with prompt and eos.
      fingerprint: the source's.
      report: counts of the captions kept and left out.
      prompt: tokens of the prompt, with which every caption begins.
    """

    image_ids: tuple[str, ...]
    tokens: tuple[tuple[np.ndarray, ...], ...]
    max_length: int
    fingerprint: str
    report: CaptionReport
    prompt: int = 0

    @cached_property
    def most_captions(self) -> int:
        """The most captions of an image."""
        return max(map(len, self.tokens), default=0)


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
    texts = [before + text for captions in table.captions for text in captions]
    flat = tokenizer.encode_batch(texts)
    empty = sum(len(ids) <= first for ids in flat)
    long = sum(len(ids) >= max_length for ids in flat)

    def keep(ids: list[int]) -> bool:
        return len(ids) > first and (over_length == "cut" or len(ids) < max_length)

    encoded = iter(flat)
    tokens = tuple(
        tuple(
            np.array([*ids[: max_length - 1], tokenizer.eos_id], np.int32)
            for ids in (next(encoded) for _ in captions)
            if keep(ids)
        )
        for captions in table.captions
    )
    bare = [i for i, captions in enumerate(tokens) if not captions]
    lengths = np.bincount(
        [len(ids) for captions in tokens for ids in captions], minlength=max_length + 1
    )
    words = int(lengths @ np.arange(max_length + 1) - (1 + first) * lengths.sum())
    unknown = _unknown_words(texts, flat, tokenizer, max_length, keep)
    report = CaptionReport(
        images=len(tokens),
        captions=len(flat),
        kept=int(lengths.sum()),
        dropped=long if over_length == "drop" else 0,
        cut=long if over_length == "cut" else 0,
        empty=empty,
        bare_images=len(bare),
        bare_image_ids=tuple(table.image_ids[i] for i in bare[:5]),
        words=words,
        unknown=unknown.total(),
        frequent_unknown=tuple(sorted(unknown.items(), key=lambda item: (-item[1], item[0]))[:10]),
        lengths=lengths,
    )
    return EncodedCaptions(table.image_ids, tokens, max_length, table.fingerprint, report, first)


def _unknown_words(texts, flat, tokenizer, max_length, keep) -> Counter:
    """Counts the words in kept captions that are encoded as unk; words cut off do not count."""
    counts = Counter()
    for text, ids in zip(texts, flat, strict=True):
        if tokenizer.unk_id in ids and keep(ids):
            counts.update(tokenizer.unknown(text, max_length - 1))
    return counts


def unigram_counts(encoded: EncodedCaptions, vocab_size: int) -> np.ndarray:
    """Counts each token as a target: float64 [V], words and eos of all captions.

    A decoder's output bias can start from the logarithm of each token's share.

    Raises:
      ValueError: a token is not below `vocab_size`.
    """
    every = [ids[encoded.prompt :] for captions in encoded.tokens for ids in captions]
    counts = np.bincount(np.concatenate(every) if every else [], minlength=vocab_size)
    if len(counts) > vocab_size:
        raise ValueError(
            f"token {len(counts) - 1} is not below vocab_size {vocab_size}: "
            "were the captions encoded with another tokenizer?"
        )
    return counts.astype(np.float64)
