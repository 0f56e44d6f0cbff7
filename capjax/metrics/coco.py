"""coco-caption's scores: BLEU, ROUGE-L, CIDEr-D, and METEOR where Java is found.

The scorers are pycocoevalcap's; the tokens are `capjax.metrics.ptb`'s, so that only METEOR needs
Java. pycocoevalcap's `Cider`, which reports call CIDEr, is CIDEr-D: it clips the n-gram counts of
the hypothesis at the reference's, and multiplies by a Gaussian penalty (sigma 6) on the
difference of lengths (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 5).
"""

import contextlib
import subprocess
import threading
from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge

from capjax.metrics.ptb import tokenize

_METEOR_SECONDS = 1800.0  # 5,000 images take about a minute; past this the process is stuck

_Tokens = dict[Hashable, list[str]]


METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D")
"""What `score` gives everywhere; METEOR needs Java."""


def score(
    references: Mapping[Hashable, Sequence[str]],
    hypotheses: Mapping[Hashable, str],
    *,
    meteor: bool | None = None,
) -> dict[str, float]:
    """Scores of a whole split, times 100.

    Corpus-level as in coco-caption: BLEU's brevity penalty uses the closest reference length,
    ROUGE-L (beta 1.2) and CIDEr-D are means over images, and CIDEr's idf comes from `references`,
    so a part of a split has other values than the whole. With one image every idf, and so
    CIDEr-D, is 0.

    Args:
      references: raw captions by image id, one or more an image.
      hypotheses: a raw caption by image id. An empty one is legal and scores 0
        (but for coco-caption's ROUGE-L, to which nothing matches a reference without a word).
      meteor: whether to run METEOR 1.5; None runs it where `why_no_meteor()` finds no obstacle.

    Returns:
      "BLEU-1" to "BLEU-4", "ROUGE-L", "CIDEr-D" and, where it was run, "METEOR".

    Raises:
      ValueError: the two have different image ids, there are none, an image has no reference, or
        no reference holds a word.
      RuntimeError: METEOR was asked for and there is no Java, or its process failed.
    """
    obstacle = why_no_meteor() if meteor is not False else None
    if meteor and obstacle:
        raise RuntimeError(f"{obstacle}; pass meteor=False to go without")
    gts, res = _tokens(references, hypotheses)
    bleus, _ = Bleu(4).compute_score(gts, res, verbose=0)
    values = {f"BLEU-{n}": bleu for n, bleu in enumerate(bleus, start=1)}
    values["ROUGE-L"], _ = Rouge().compute_score(gts, res)
    values["CIDEr-D"], _ = Cider().compute_score(gts, res)
    if meteor is not False and not obstacle:
        values["METEOR"] = _meteor(gts, res)
    return {name: 100.0 * float(value) for name, value in values.items()}


def per_image_cider(
    references: Mapping[Hashable, Sequence[str]], hypotheses: Mapping[Hashable, str]
) -> dict[Hashable, float]:
    """CIDEr-D of each image, times 100; their mean is `score`'s. Arguments and errors as there."""
    gts, res = _tokens(references, hypotheses)
    _, scores = Cider().compute_score(gts, res)
    return {image_id: 100.0 * float(value) for image_id, value in zip(gts, scores, strict=True)}


class ImageScores(NamedTuple):
    """The scores of single images, and what the BLEU of any sample of them is made of.

    Attributes:
      image_ids: one an image, I in all.
      metrics: float [I] by name, "ROUGE-L" and "CIDEr-D", times 100; their means are `score`'s.
      bleu: int [I, 9]: matching n-grams of lengths 1 to 4, n-grams of the hypothesis of these
        lengths, and words of the reference that is the closest in length. `bleu_of` takes sums.
    """

    image_ids: tuple[Hashable, ...]
    metrics: dict[str, np.ndarray]
    bleu: np.ndarray


def per_image(
    references: Mapping[Hashable, Sequence[str]], hypotheses: Mapping[Hashable, str]
) -> ImageScores:
    """Scores of each image, with CIDEr's idf of them all. Arguments and errors as of `score`."""
    gts, res = _tokens(references, hypotheses)
    _, rouge = Rouge().compute_score(gts, res)
    _, cider = Cider().compute_score(gts, res)
    metrics = {"ROUGE-L": 100.0 * rouge, "CIDEr-D": 100.0 * cider}
    bleu = [_bleu_statistics(res[image_id][0], gts[image_id]) for image_id in gts]
    return ImageScores(tuple(gts), metrics, np.array(bleu))


def bleu_of(statistics: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4 of samples of images, times 100: pycocoevalcap's arithmetic.

    Args:
      statistics: [..., 9], sums of `ImageScores.bleu` over the images of each sample.

    Returns:
      float [..., 4].
    """
    tiny, small = 1e-15, 1e-9  # 0 of 0 n-grams is 0.
    matches, totals, reference = np.split(np.asarray(statistics, float), [4, 8], axis=-1)
    precisions = np.cumprod((matches + tiny) / (totals + small), axis=-1)
    ratio = (totals[..., :1] + tiny) / (reference + small)  # The first totals are words.
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return 100.0 * (precisions ** (1 / np.arange(1, 5)) * penalty)


def _bleu_statistics(hypothesis: str, references: Sequence[str]) -> list[int]:
    found = cook_test(hypothesis, cook_refs(references), eff="closest")
    return [*found["correct"], *found["guess"], found["reflen"]]


@cache
def why_no_meteor() -> str | None:
    """What keeps METEOR from running here, as a sentence's start; None where nothing does."""
    try:
        # To run it is the only test: macOS has a `java` that does nothing but ask for one.
        subprocess.run(["java", "-version"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"METEOR needs a `java` that runs ({type(error).__name__})"
    return None


def _tokens(
    references: Mapping[Hashable, Sequence[str]], hypotheses: Mapping[Hashable, str]
) -> tuple[_Tokens, _Tokens]:
    """What pycocoevalcap's scorers take: tokens joined by spaces, in lists, by image id."""
    if not references and not hypotheses:
        raise ValueError("references and hypotheses are empty: there is no image to score")
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
                f"references[{image_id!r}] is a string: it should be a sequence of captions"
            )
        if not captions:
            raise ValueError(f"references[{image_id!r}] is empty: an image needs one or more")
    gts = {
        image_id: [" ".join(tokenize(caption)) for caption in captions]
        for image_id, captions in references.items()
    }
    if not any(any(captions) for captions in gts.values()):
        raise ValueError("references hold no word: all of their captions are empty or punctuation")
    return gts, {image_id: [" ".join(tokenize(hypotheses[image_id]))] for image_id in gts}


def _meteor(gts: _Tokens, res: _Tokens) -> float:
    """METEOR 1.5 of the split, in 0 to 1, with its process gone whatever happens."""
    scorer = Meteor()
    process = scorer.meteor_p
    # A dead process makes the scorer's reads return nothing, which it cannot parse: no hang.
    watchdog = threading.Timer(_METEOR_SECONDS, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        value, _ = scorer.compute_score(gts, res)
    except (OSError, ValueError) as error:
        process.kill()
        said = process.stderr.read().decode(errors="replace").strip()[-500:] or "it said nothing"
        raise RuntimeError(
            f"METEOR's Java process failed ({said}); pass meteor=False to go without"
        ) from error
    finally:
        watchdog.cancel()
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):  # what it did not read is lost with it
                pipe.close()
        process.wait()
        if scorer.lock.locked():  # the scorer's own clean-up would wait for it for ever
            scorer.lock.release()
    return value
