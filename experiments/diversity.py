"""Scores of captions, and how much several captions of an image differ."""

import itertools
import statistics
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from pycocoevalcap.bleu.bleu import Bleu

from capjax.data.batches import lay_out
from capjax.metrics import coco
from capjax.metrics.ptb import tokenize
from capjax.metrics.rewards.cider_d import CiderD

HALVES = {"even": slice(0, None, 2), "odd": slice(1, None, 2), "all": slice(None)}

_References = Mapping[str, Sequence[str]]
_Texts = Mapping[str, Sequence[str]]


def figures(references: _References, texts: _Texts) -> dict[str, float]:
    """The figures of the captions of a split; scores are times 100.

    CIDEr-D has the document frequencies of all references, so that the whole is the mean of both
    halves: the images at even and at odd places.

    Args:
      references: raw captions by image id.
      texts: one caption or several, the best first, of each.

    Returns:
      "BLEU-4 H" and "CIDEr-D H" of each of `HALVES`; "words" a caption; "distinct-1" and
      "distinct-2", the share of different words and pairs in the whole split; and "repeats", see
      `repeats`. All are of the first captions. Several captions add figures of `of_several`.
    """
    first = {i: texts[i][0] for i in references}
    scored = coco.per_image(references, first)
    row = {}
    for name, half in HALVES.items():
        row[f"BLEU-4 {name}"] = float(coco.bleu_of(scored.bleu[half].sum(axis=0))[3])
        row[f"CIDEr-D {name}"] = float(scored.metrics["CIDEr-D"][half].mean())
    words = [text.split() for text in first.values()]
    row["words"] = statistics.mean(map(len, words))
    row["distinct-1"], row["distinct-2"] = (distinct(words, n) for n in (1, 2))
    row["repeats"] = statistics.mean(map(repeats, words))
    count = min(map(len, texts.values()))
    return row | (of_several(references, texts, count) if count > 1 else {})


def repeats(words: Sequence[str]) -> bool:
    """True if a word of four letters or more occurs twice."""
    return any(count > 1 and len(word) > 3 for word, count in Counter(words).items())


def distinct(captions: Sequence[Sequence[str]], n: int) -> float:
    """The share of different n-grams among all of some captions; 0 without any."""
    found = [
        words[at : at + n] for words in map(tuple, captions) for at in range(len(words) - n + 1)
    ]
    return len({*found}) / max(len(found), 1)


def of_several(references: _References, texts: _Texts, count: int) -> dict[str, float]:
    """Figures of the first `count` captions of each image.

    Returns:
      "oracle H", the best CIDEr-D among them; "div-1" and "div-2", `distinct` of an image's
      captions (Shetty et al. 2017); "mBLEU-4", each place's BLEU-4 with the image's other captions
      as references, of at most five, as in the literature.
    """
    said = {i: [" ".join(tokenize(text)) for text in texts[i][:count]] for i in references}
    best = cider_d(references, said).max(axis=1)
    found = {f"oracle {name}": float(best[half].mean()) for name, half in HALVES.items()}
    for n in (1, 2):
        split = ([text.split() for text in own] for own in said.values())
        found[f"div-{n}"] = statistics.mean(distinct(own, n) for own in split)
    few = {i: own[:5] for i, own in said.items()}
    likeness = []
    for place in range(min(count, 5)):
        hypotheses = {i: [own[place]] for i, own in few.items()}
        others = {i: [*own[:place], *own[place + 1 :]] for i, own in few.items()}
        likeness.append(Bleu(4).compute_score(others, hypotheses, verbose=0)[0][3])
    return found | {"mBLEU-4": 100 * statistics.mean(likeness)}


def cider_d(references: _References, texts: _Texts) -> np.ndarray:
    """CIDEr-D of all captions, [I, K], as `coco.per_image` has it, in one call on the device."""
    ids: dict[str, int] = {}  # From 1: 0 is the end, which no caption here has.

    def encode(captions: Sequence[str]) -> list[np.ndarray]:
        split = map(tokenize, captions)
        return [
            np.array([ids.setdefault(word, len(ids) + 1) for word in words], np.int32)
            for words in split
        ]

    given, said = ([encode(found[i]) for i in references] for found in (references, texts))
    reward = CiderD(end_token=False)
    special: Any = types.SimpleNamespace(bos_id=0, pad_id=0)
    table = reward.prepare(given, eos_id=0, vocab_size=len(ids) + 1)
    longest = max(len(words) for own in itertools.chain(given, said) for words in own)
    arrays = []
    for captions in (said, given):
        tokens, lengths = lay_out(captions, max(map(len, captions)), longest, special)
        arrays += [tokens[..., 1:], lengths]
    return 100 * np.asarray(jax.jit(reward.__call__)(table, *arrays))
