"""The scores of coco-caption: BLEU, ROUGE-L, CIDEr-D, and METEOR if Java is installed.

The scorers are those of pycocoevalcap and the tokens those of `capjax.metrics.ptb`, so that only
METEOR needs Java. pycocoevalcap's `Cider`, called CIDEr in reports, is CIDEr-D: it clips n-gram
counts of the hypothesis to those of the reference and multiplies by a Gaussian penalty (sigma 6) on
the difference of lengths (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 5).
"""

import functools
import itertools
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.cider.cider_scorer import precook
from pycocoevalcap.rouge.rouge import Rouge

from capjax.metrics import meteor as meteor_process

_logger = logging.getLogger(__name__)

_Tokens = dict[Hashable, list[str]]


METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")
"""The scores that need no Java."""


def score(
    references: Mapping[Hashable, Sequence[str]],
    hypotheses: Mapping[Hashable, str],
    *,
    meteor: bool | None = None,
) -> dict[str, float]:
    """Scores of a split, times 100.

    As in coco-caption, BLEU is corpus-level with the closest reference length in its brevity
    penalty, and ROUGE-L (beta 1.2) and CIDEr-D are means over images. CIDEr's idf comes from
    `references`, so its values depend on the split; with one image every idf, and so CIDEr-D, is 0.

    Args:
      references: raw captions by image id, one or more per image.
      hypotheses: one raw caption by image id. An empty caption is valid and scores 0, except for
        ROUGE-L if a reference has no words either.
      meteor: whether to run METEOR 1.5; None runs it if `meteor.why_not()` returns None, and leaves
        it out with a warning if it fails.

    Returns:
      "BLEU-1" to "BLEU-4", "ROUGE-L", "CIDEr-D" and, if it was run, "METEOR".

    Raises:
      ValueError: the image ids differ, there are none, an image has no reference, or no reference
        has a word.
      RuntimeError: `meteor` is True and there is no Java, or METEOR's process failed.
    """
    obstacle = meteor_process.why_not() if meteor is not False else None
    if meteor and obstacle:
        raise RuntimeError(f"{obstacle}; pass meteor=False to leave it out")
    gts, res, each = _scored(*_frozen(references, hypotheses))
    bleus, _ = Bleu(4).compute_score(gts, res, verbose=0)
    values = {f"BLEU-{n}": bleu for n, bleu in enumerate(bleus, start=1)}
    values |= {name: np.mean(scores) for name, scores in each.items()}
    if meteor is not False and not obstacle:
        try:
            values["METEOR"] = meteor_process.score(gts, res)
        except RuntimeError as error:
            if meteor:
                raise
            _logger.warning("%s; the other scores do not need it", error)
    return {name: 100.0 * float(value) for name, value in values.items()}


class ImageScores(NamedTuple):
    """Scores and BLEU statistics of each image.

    Attributes:
      image_ids: of the I images.
      metrics: float [I] by name, "ROUGE-L" and "CIDEr-D", times 100; their means are those of
        `score`.
      bleu: int [I, 9]: matching n-grams for n = 1 to 4, n-grams of the hypothesis for n = 1 to 4,
        and the closest reference length. `bleu_of` takes sums over images.
    """

    image_ids: tuple[Hashable, ...]
    metrics: dict[str, np.ndarray]
    bleu: np.ndarray


def per_image(
    references: Mapping[Hashable, Sequence[str]], hypotheses: Mapping[Hashable, str]
) -> ImageScores:
    """Scores of each image, with CIDEr's idf of all images; arguments and errors as of `score`."""
    gts, res, each = _scored(*_frozen(references, hypotheses))
    metrics = {name: 100.0 * values for name, values in each.items()}
    bleu = [_bleu_statistics(res[image_id][0], gts[image_id]) for image_id in gts]
    return ImageScores(tuple(gts), metrics, np.array(bleu))


def bleu_of(statistics: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 of samples of images, times 100, computed as in pycocoevalcap.

    Args:
      statistics: [..., 9], sums of `ImageScores.bleu` over the images of each sample.

    Returns:
      float [..., 4].
    """
    tiny, small = 1e-15, 1e-9  # Those of pycocoevalcap; 0 / 0 gives about 0.
    matches, totals, reference = np.split(np.asarray(statistics, float), [4, 8], axis=-1)
    precisions = np.cumprod((matches + tiny) / (totals + small), axis=-1)
    ratio = (totals[..., :1] + tiny) / (reference + small)  # Unigram totals are lengths.
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return 100.0 * (precisions ** (1 / np.arange(1, 5)) * penalty)


def _treebank(caption: str) -> str:
    """The tokens of a caption, with spaces between."""
    # Imported here, since captioning, which needs no scores, would wait for its tables.
    from capjax.metrics.ptb import tokenize

    return " ".join(tokenize(caption))


def cider_can_vary(references: Iterable[Sequence[str]]) -> bool:
    """False if CIDEr-D is 0 for any captions, since every idf is 0: with one image, for example.

    An n-gram has an idf of 0 if it is in the references of every image.

    Args:
      references: raw captions of each image.
    """
    ngrams = (
        {*itertools.chain.from_iterable(precook(_treebank(text)) for text in captions)}
        for captions in references
    )
    first = next(ngrams, set())
    return any(own != first for own in ngrams)


def _bleu_statistics(hypothesis: str, references: Sequence[str]) -> list[int]:
    found = cook_test(hypothesis, cook_refs(references), eff="closest")
    return [*found["correct"], *found["guess"], found["reflen"]]


@functools.lru_cache(maxsize=1)
def _scored(
    references: tuple[tuple[Hashable, tuple[str, ...]], ...],
    hypotheses: tuple[tuple[Hashable, str], ...],
) -> tuple[_Tokens, _Tokens, dict[str, np.ndarray]]:
    """Tokens as of `_tokens`, and ROUGE-L and CIDEr-D of each image.

    An evaluation asks twice, for the split and for its images, and computes them once.
    """
    gts, res = _tokens(dict(references), dict(hypotheses))
    _, rouge = Rouge().compute_score(gts, res)
    _, cider = Cider().compute_score(gts, res)
    return gts, res, {"ROUGE-L": rouge, "CIDEr-D": cider}


def _frozen(
    references: Mapping[Hashable, Sequence[str]], hypotheses: Mapping[Hashable, str]
) -> tuple[tuple, tuple]:
    """Arguments of `_scored`."""
    _check(references, hypotheses)
    frozen = ((image_id, tuple(captions)) for image_id, captions in references.items())
    return tuple(frozen), tuple(hypotheses.items())


def _check(
    references: Mapping[Hashable, Sequence[str]], hypotheses: Mapping[Hashable, str]
) -> None:
    """Raises the ValueErrors of `score`, but for references without words."""
    if not references and not hypotheses:
        raise ValueError("references and hypotheses are empty: there are no images to score")
    for name, missing in (
        ("hypotheses", references.keys() - hypotheses.keys()),
        ("references", hypotheses.keys() - references.keys()),
    ):
        if missing:
            some = ", ".join(sorted(map(repr, missing))[:3])
            raise ValueError(f"{name} lack {len(missing)} of the image ids, such as {some}")
    for image_id, captions in references.items():
        if isinstance(captions, str):
            raise ValueError(
                f"references[{image_id!r}] is a string: it must be a sequence of captions"
            )
        if not captions:
            raise ValueError(f"references[{image_id!r}] is empty: each image needs a reference")


def _tokens(
    references: Mapping[Hashable, Sequence[str]], hypotheses: Mapping[Hashable, str]
) -> tuple[_Tokens, _Tokens]:
    """Arguments of pycocoevalcap's scorers: lists of tokens joined by spaces, by image id."""
    gts = {
        image_id: [_treebank(caption) for caption in captions]
        for image_id, captions in references.items()
    }
    if not any(any(captions) for captions in gts.values()):
        raise ValueError("references have no words: all captions are empty or punctuation")
    return gts, {image_id: [_treebank(hypotheses[image_id])] for image_id in gts}
