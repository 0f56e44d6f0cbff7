"""Retrieval: a split's images ranked by a caption, and its captions ranked by an image."""

from collections.abc import Iterator, Mapping

import numpy as np

from capjax.data.sections import check_images, open_captions, open_source
from capjax.run.likelihood import encode_given, totals
from capjax.run.load import Run

RANKS = (1, 5, 10)


def retrieval(run: Run, split: str, limit: int = 0) -> dict[str, float]:
    """Scores all captions of a split with all of its images.

    Args:
      run: the model; its config names the dataset.
      split: the split.
      limit: takes only so many of its first images; 0 takes all.

    Returns:
      "images", "captions", and the numbers of `recalls`.

    Raises:
      DataError: the split can't be used.
      ScoreError: a caption is longer than the model can be fed.
    """
    dataset = run.config.dataset
    source = check_images(dataset, open_source(dataset, split))
    table = open_captions(dataset, source)
    count = min(limit or len(source), len(source))
    texts = [text for captions in table.captions[:count] for text in captions]
    image_of = np.repeat(np.arange(count), table.captions.utf8.counts[:count])
    encoded = encode_given(run.tokenizer, texts, run.model)
    batches = _first(run.pixel_batches(source, count=count), count)
    scores = totals(run.score_batches(batches, [encoded] * count), count, encoded)
    return {"images": float(count), "captions": float(len(texts)), **recalls(scores, image_of)}


def recalls(scores: np.ndarray, image_of: np.ndarray) -> dict[str, float]:
    """Recall at each of RANKS, and the median rank, in both directions.

    Args:
      scores: [I, captions], the log-probability of every caption with every image.
      image_of: int [captions], the image of each caption.

    Returns:
      image_recall@k: share of captions whose own image is among the k likeliest.
      caption_recall@k: share of images with one of their captions among the k likeliest, in excess
        of each caption's mean over images: short and common captions are likely with any image.
      image_median_rank, caption_median_rank: from 1. Ties count against the model.
    """
    own = scores[image_of, np.arange(len(image_of))]
    image_ranks = (scores >= own).sum(axis=0)
    excess = scores - scores.mean(axis=0)
    caption_ranks = np.array(
        [
            1 + (excess[i, image_of != i] >= excess[i, image_of == i].max()).sum()
            for i in np.unique(image_of)
        ]
    )
    found = {}
    for name, ranks in (("image", image_ranks), ("caption", caption_ranks)):
        found |= {f"{name}_recall@{k}": float((ranks <= k).mean()) for k in RANKS}
        found[f"{name}_median_rank"] = float(np.median(ranks))
    return found


def _first(
    batches: Iterator[Mapping[str, np.ndarray]], count: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """The batches of the first images; later images become padding."""
    for batch in batches:
        yield {**batch, "index": np.where(batch["index"] < count, batch["index"], -1)}
        if batch["index"].max() >= count - 1:
            return
