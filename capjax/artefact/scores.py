"""Metrics for the manifest of an artefact: those of its run, and those of its own captions."""

import glob
import os
from typing import Any

import numpy as np

from capjax.artefact.captioner import Captioner
from capjax.config import build
from capjax.data.sections import check_images, open_captions, open_source
from capjax.evaluate.scoring import score_captions
from capjax.files.text import parse_json
from capjax.run.load import Run
from capjax.run.workdir import Workdir


def metrics_of(workdir: str, step: int) -> dict[str, dict[str, float]]:
    """The metrics of a run's checkpoint: while it was trained, and of each `capjax evaluate`.

    Files that are missing or damaged are left out.
    """
    files, found = Workdir(workdir), {}
    for row in _rows(files.path(Workdir.METRICS)):
        if row.pop("group", None) == "validation" and row.pop("step", None) == step:
            row.pop("wall_seconds", None)
            found["validation"] = row
    for file in sorted(glob.glob(glob.escape(files.path(Workdir.EVALUATION)) + "/*.metrics.json")):
        for result in _rows(file, whole=True):
            if result.get("step") == step and isinstance(result.get("metrics"), dict):
                found[os.path.basename(file).removesuffix(".metrics.json")] = result["metrics"]
    return found


def _rows(file: str, *, whole: bool = False) -> list[dict[str, Any]]:
    try:
        with open(file, encoding="utf-8") as stream:
            texts = [stream.read()] if whole else stream.readlines()
        rows = [parse_json(text) for text in texts]
    except (OSError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)]


def scores_of(artefact: Captioner, run: Run, split: str) -> dict[str, dict[str, float]]:
    """The scores of the artefact's captions of a split of the run's dataset.

    Raises:
      DataError: the split can't be used.
    """
    source = check_images(run.config.dataset, open_source(run.config.dataset, split))
    table = open_captions(run.config.dataset, source)
    captions, finished = {}, []
    for batch in run.pixel_batches(source):
        rows = np.flatnonzero(batch["index"] >= 0)
        index = batch["index"][rows].tolist()
        found = artefact.caption_pixels([*batch["image"][rows]], index=index, batch_size=len(rows))
        for place, caption in zip(index, found, strict=True):
            captions[table.image_ids[place]] = caption.text
            finished.append(caption.finished)
    scores = score_captions(table, captions, build.scorers(run.config))
    share = {"images": float(len(captions)), "finished": float(np.mean(finished))}
    return {split: {**scores, **share}}
