"""Scores of captions against the references of a split."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from capjax.data.captions import CaptionTable
from capjax.data.dataset import ImageScorer, Scorer
from capjax.metrics import coco


@dataclasses.dataclass(frozen=True)
class Metric:
    """Scorer of one metric, which a user registers as a function.

    Attributes:
      name: name of the metric.
      function: (hypotheses, references), both by image id -> value of the metric.
    """

    name: str
    function: Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], float]

    def __call__(
        self, hypotheses: Mapping[str, str], references: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """Computes {name: value}."""
        return {self.name: float(self.function(hypotheses, references))}


def score_captions(
    table: CaptionTable,
    hypotheses: Mapping[str, str],
    scorers: Sequence[Scorer] = (),
    *,
    meteor: bool | None = None,
) -> dict[str, float]:
    """Computes the COCO scores and those of `scorers`, by name.

    Args:
      table: raw captions of the split. Images without captions can't be scored; they are counted
        as "unscored_images".
      hypotheses: image id -> caption.
      scorers: further metrics, of all hypotheses.
      meteor: see `coco.score`.
    """
    references = _references(table, hypotheses)
    scored = {image_id: hypotheses[image_id] for image_id in references}
    metrics = coco.score(references, scored, meteor=meteor) if references else {}
    for scorer in scorers:
        metrics.update(scorer(hypotheses, references))
    if len(scored) < len(hypotheses):
        metrics["unscored_images"] = float(len(hypotheses) - len(scored))
    return metrics


def image_results(
    table: CaptionTable, hypotheses: Mapping[str, str], scorers: Sequence[ImageScorer] = ()
) -> dict[str, Any]:
    """Computes scores of single images, as JSON values, for intervals, comparisons and galleries.

    Args:
      table: as in `score_captions`; images without captions are omitted.
      hypotheses: image id -> caption.
      scorers: further metrics of each hypothesis: name -> image id -> value.

    Returns:
      image_ids: the I scored images.
      references: image id -> raw captions.
      metrics: name -> I values in the order of image_ids, whose mean is the value of the split.
      bleu: "matches" and "totals" [I, 4], by n-gram length, and "reference_lengths" [I]: see
        `coco.bleu_of`.
    """
    references = _references(table, hypotheses)
    if not references:
        bleu = {"matches": [], "totals": [], "reference_lengths": []}
        return {"image_ids": [], "references": {}, "metrics": {}, "bleu": bleu}
    scored = {image_id: hypotheses[image_id] for image_id in references}
    scores = coco.per_image(references, scored)
    metrics = {name: values.tolist() for name, values in scores.metrics.items()}
    for scorer in scorers:
        for name, values in scorer(scored).items():
            metrics[name] = [values[image_id] for image_id in scores.image_ids]
    bleu = {
        "matches": scores.bleu[:, :4].tolist(),
        "totals": scores.bleu[:, 4:8].tolist(),
        "reference_lengths": scores.bleu[:, 8].tolist(),
    }
    return {
        "image_ids": list(scores.image_ids),
        "references": {image_id: list(captions) for image_id, captions in references.items()},
        "metrics": metrics,
        "bleu": bleu,
    }


def _references(table: CaptionTable, hypotheses: Mapping[str, str]) -> dict[str, Sequence[str]]:
    """References of the captioned images that have any, by image id."""
    captions = dict(zip(table.image_ids, table.captions, strict=True))
    return {image_id: captions[image_id] for image_id in hypotheses if captions[image_id]}
