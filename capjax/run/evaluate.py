"""Captions a split with a trained run and scores the captions."""

import functools
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax.config import build, checks, questions
from capjax.config.fields import part_of
from capjax.config.identity import FREE_IN_EVALUATION, shared_fields
from capjax.data.captions import CaptionTable
from capjax.data.sections import check_images, open_captions, open_source
from capjax.data.source import Source, fingerprints
from capjax.evaluate.captioning import Caption, CaptionBatches
from capjax.evaluate.methods import Method
from capjax.evaluate.results import alternatives_of, coco_results, code_version
from capjax.evaluate.scoring import image_results, score_captions
from capjax.files.atomic import write_json
from capjax.files.text import finite
from capjax.metrics import meteor
from capjax.models import few_rows
from capjax.models.captioner import Captioner
from capjax.models.ensemble import Average, Ensemble
from capjax.parallel import devices, processes, programs
from capjax.pretrained.variables import fingerprint
from capjax.run.ensemble import ensemble, label_of_members
from capjax.run.features import from_features
from capjax.run.foils import foil_metrics
from capjax.run.load import Run, load, members_of
from capjax.run.rewards import ready
from capjax.run.split import Split, log_notes, make_split
from capjax.run.workdir import Workdir
from capjax.train.events import write_scalars
from capjax.train.step import make_loss_step
from capjax.train.validate import TeacherForced

_logger = logging.getLogger(__name__)


def evaluate(
    config: ConfigDict,
    directory: str,
    *,
    split: str,
    checkpoint: str,
    others: Sequence[str] = (),
    average: Average = "probabilities",
) -> dict[str, float]:
    """Captions and scores a split with the run in `directory`, and writes the results there.

    Fields of `identity.FREE_IN_EVALUATION` come from `config`; all others must equal the run's.
    With `others` it does so with the ensemble of the run and the runs there.

    Returns:
      The metrics, in all processes; commands print them by `metrics_line`.

    Raises:
      ConfigError, DataError, WorkdirError, EnsembleError, ProcessesError: before captioning.
    """
    workdir = Workdir(directory)
    checks.check(config)
    checks.check_devices(config, "evaluation.batch_size")
    processes.check_equal("config", lambda: shared_fields(config))
    workdir.check_same_run(config, FREE_IN_EVALUATION)
    run = load(directory, checkpoint)
    if others:
        run = ensemble([run, *(load(other, checkpoint) for other in others)], average)
    method = ready(build.decoding_method(config.decoding), config, run.tokenizer)
    with processes.primary_first():
        source = check_images(config.dataset, open_source(config.dataset, split))
        table = open_captions(config.dataset, source)
    checks.check_batch(config, "evaluation.batch_size", len(source), source.name)
    workdir.check_same_data({split: fingerprints(source)})
    processes.check_equal("data", lambda: source.fingerprint)
    processes.check_equal(f"checkpoints in {directory}", lambda: fingerprint(run.variables))
    log_notes([source])
    data = make_split(config, source, table, run.tokenizer)

    def report(captions: dict[str, Caption], measured: dict[str, float]) -> dict[str, float]:
        label = method.label + label_of_members(run)
        stem = workdir.path(workdir.EVALUATION, f"{split}-step{run.step}-{label}")
        # First, so that a metric that fails does not lose them.
        write_json(f"{stem}.captions.json", coco_results(captions))
        if method.num_captions > 1:
            write_json(f"{stem}.alternatives.json", alternatives_of(captions))
        metrics = measured | _scores(config, table, captions)
        # On one line: programs read it, and it has thousands of numbers.
        images = image_results(table, _texts(captions), build.image_scorers(config))
        write_json(f"{stem}.images.json", images, indent=None)
        # In a subfolder of the training's events, so that HParams shows them in its row.
        log = workdir.path(workdir.TENSORBOARD, f"{split}-{label}")
        write_scalars(log, run.step, {f"evaluation/{name}": metrics[name] for name in metrics})
        chosen = _chosen(config, workdir, run.step, checkpoint)
        _write_metrics(stem, metrics, {"split": split, **_provenance(config, run, source, chosen)})
        return metrics

    with meteor.started(processes.is_primary()):
        captions, measured = _caption(config, run, data, method)
        return processes.broadcast_from_primary(lambda: report(captions, measured))


def metrics_line(metrics: dict[str, float]) -> str:
    """Formats metrics as one line of JSON, to four decimal places; null is NaN or infinity."""
    rounded = {name: round(value, 4) for name, value in metrics.items()}
    return json.dumps(finite(rounded), allow_nan=False)


def _caption(
    config: ConfigDict, run: Run, split: Split, method: Method
) -> tuple[dict[str, Caption], dict[str, float]]:
    """Captions by image id; and what needs no captions: teacher forcing and the foils."""
    model, variables = run.model, run.variables
    # The members of an ensemble can have encoders of their own.
    if questions.is_cached(config) and not run.members:
        split, model, variables = from_features(split, model, variables)
    variables = devices.replicate(few_rows.prepared(variables))
    forced = TeacherForced(programs.map_devices(make_loss_step(model), (model, "loss")), variables)
    captioned = CaptionBatches(model, run.tokenizer, together=True)(
        variables, forced.watch(split.eval_batches(run.resize)), method
    )
    bar = functools.partial(tqdm, total=len(split.source), disable=not processes.is_primary())
    captions = {
        split.table.image_ids[index]: caption.without(split.prompt)
        for index, caption in bar(captioned, desc=f"caption {split.source.name}")
    }
    return captions, forced.metrics() | _foil_metrics(run, split, model, variables)


def _foil_metrics(
    run: Run, split: Split, model: Captioner | Ensemble, variables: Any
) -> dict[str, float]:
    """Accuracy of telling references from the dataset's foils; nothing for one without foils."""
    make_foils = part_of(run.config, "dataset").make_foils
    if make_foils is None:
        return {}
    return foil_metrics(
        model,
        run.tokenizer,
        variables,
        split.eval_batches(run.resize),
        split.table.image_ids,
        make_foils(split.table.image_ids),
        together=True,
    )


def _scores(
    config: ConfigDict, table: CaptionTable, captions: dict[str, Caption]
) -> dict[str, float]:
    """The COCO scores, the dataset's own, and the share of finished captions."""
    scores = dict(score_captions(table, _texts(captions), build.scorers(config)))
    scores["finished"] = float(np.mean([caption.finished for caption in captions.values()]))
    return scores


def _texts(captions: dict[str, Caption]) -> dict[str, str]:
    return {image_id: caption.text for image_id, caption in captions.items()}


def _chosen(config: ConfigDict, workdir: Workdir, step: int, checkpoint: str) -> str:
    """What chose the checkpoint: scores on that split flatter the run a little."""
    if checkpoint != "best":
        return f"by the command line: {checkpoint}"
    with workdir.checkpoints(config, read_only=True) as checkpoints:
        return f"best {checkpoints.progress(step)['metric']} on validation"


def _provenance(config: ConfigDict, run: Run, source: Source, chosen: str) -> dict[str, Any]:
    """The data, parameters, settings and code behind an evaluation's results."""
    return {
        **members_of(run),
        "source": {"name": source.name, "fingerprint": source.fingerprint, **source.selection},
        "images": len(source),
        "step": run.step,
        "chosen": chosen,
        "tokenizer": run.tokenizer.fingerprint,
        "decoding": config.decoding.to_dict(),
        "seed": config.seed,
        "code": code_version(),
        "config": config.to_dict(),
    }


def _write_metrics(stem: str, metrics: dict[str, float], provenance: dict[str, Any]) -> None:
    """Writes the metrics file, the evaluation's last, and logs the names of all files."""
    why = meteor.why_not() or "its Java process failed"
    notes = {} if "METEOR" in metrics else {"METEOR": f"not computed: {why}"}
    write_json(f"{stem}.metrics.json", {"metrics": metrics, "notes": notes, **provenance})
    for name, note in notes.items():
        _logger.info("%s %s", name, note)
    _logger.info("wrote %s.captions.json, .images.json and .metrics.json", stem)
