"""Scores of captions against a split's references."""

from collections.abc import Callable, Mapping, Sequence

from capjax.data.captions import CaptionTable
from capjax.metrics import coco

Scorer = Callable[[Mapping[str, str]], dict[str, float]]


def score_captions(
    table: CaptionTable,
    hypotheses: Mapping[str, str],
    scorers: Sequence[Scorer] = (),
    *,
    meteor: bool | None = None,
) -> dict[str, float]:
    """The COCO scores and those of `scorers`, by name.

    Args:
      table: the split's raw captions. An image without any can't be scored: such images are left
        out and counted as "unscored_images".
      hypotheses: image id -> caption.
      scorers: further metrics of the hypotheses.
      meteor: see `coco.score`.
    """
    captions = dict(zip(table.image_ids, table.captions, strict=True))
    references = {image_id: captions[image_id] for image_id in hypotheses if captions[image_id]}
    scored = {image_id: hypotheses[image_id] for image_id in references}
    metrics = coco.score(references, scored, meteor=meteor) if references else {}
    for scorer in scorers:
        metrics.update(scorer(hypotheses))
    if len(scored) < len(hypotheses):
        metrics["unscored_images"] = float(len(hypotheses) - len(scored))
    return metrics
