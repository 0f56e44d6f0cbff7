"""The data of a report beside its table: captions, curves and provenance."""

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from capjax.files.errors import ReportedError
from capjax.files.text import parse_json
from capjax.run.workdir import Workdir
from capjax.train.writer import read_metrics
from experiments.sweep_files import SWEEP, Evaluation, Run, Sweep, read_sweep, read_workdir

# Maximum points of a curve, as many as a screen shows.
_POINTS = 400


class ReportError(ReportedError, ValueError):
    """A report that cannot be made; the message names the file and the remedy."""


def collect(directory: str) -> Sweep:
    """Reads a sweep's folder, or a run's workdir as a sweep of one.

    Raises:
      ResultsError: it is neither, or one of its files is damaged.
      ReportError: runs were evaluated on different data.
    """
    is_sweep = os.path.isfile(os.path.join(directory, SWEEP))
    sweep = read_sweep(directory) if is_sweep else read_workdir(directory)
    seen: dict[str, str] = {}
    for run in sweep.runs:
        for evaluation in shown_evaluations(run).values():
            source = evaluation.record["source"]
            seen.setdefault(source["fingerprint"], f"{run.name} ({source['name']})")
    if len(seen) > 1:
        raise ReportError(
            f"{directory}: {' and '.join(list(seen.values())[:2])} were evaluated on different "
            "data, and a gallery compares captions of the same images: report on each run alone"
        )
    return sweep


def shown_evaluations(run: Run) -> dict[str, Evaluation]:
    """The evaluations with results by image, by name."""
    return {name: found for name, found in run.evaluations.items() if found.images is not None}


def read_captions(evaluation: Evaluation) -> dict[str, str]:
    """Reads image id -> caption, in the split's order.

    Raises:
      ReportError: the file is damaged.
    """
    file = f"{evaluation.stem}.captions.json"
    try:
        with open(file, "rb") as stream:
            return {str(row["image_id"]): row["caption"] for row in parse_json(stream.read())}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ReportError(f"{file} can't be used ({error}): evaluate the run again") from error


def provenance(run: Run) -> dict[str, Any]:
    """The dataset, checkpoint and versions of a run and its captions, by readable names."""
    found: dict[str, Any] = {"workdir": run.workdir}
    for evaluation in list(run.evaluations.values())[:1]:
        record = evaluation.record
        source = record.get("source", {})
        found |= {"dataset": source.get("name"), "dataset fingerprint": source.get("fingerprint")}
        found |= {"tokenizer": record.get("tokenizer"), "checkpoint": record.get("step")}
        code = record.get("code", {})
        found |= {f"evaluated with {name}": value for name, value in code.items()}
    try:
        file = Workdir(run.workdir).path(Workdir.ENVIRONMENT)
        with open(file, encoding="utf-8") as stream:
            began = json.load(stream)
        found |= {f"began with {name}": value for name, value in began.items()}
    except (OSError, ValueError, AttributeError):  # Absent in earlier versions, and only shown.
        pass
    return {name: value for name, value in found.items() if value is not None}


def read_curves(file: str) -> dict[str, dict[str, list]]:
    """Reads a run's curves from its metrics.jsonl.

    Returns:
      "train": "step", "seconds", "wall_seconds" and "loss", and of a run that is trained by a
      reward "reward", "kl" and "finished"; "validation": the first four and "CIDEr-D";
      lists of equal length, with None for what was not logged. Seconds count training since step
      0, without evaluations, saving and pauses. Wall seconds, which earlier versions did not log,
      exclude only pauses. Long curves are thinned to means of neighbouring points.
    """
    rows = read_metrics(file)
    train = [row for row in rows if row["group"] == "train"]
    knots = _seconds([(row["step"], row.get("step_seconds")) for row in train])
    walled = all("wall_seconds" in row for row in rows)
    curves = {}
    rewarded = ("reward", "kl", "finished") if any("reward" in row for row in train) else ()
    named = {"train": ("loss", *rewarded), "validation": ("loss", "CIDEr-D")}
    for group, names in named.items():
        mine = [row for row in rows if row["group"] == group]
        steps = [row["step"] for row in mine]
        columns = {"step": steps, "seconds": [_time_of(step, knots) for step in steps]}
        # A run started by an earlier version has them only from where it was continued.
        columns["wall_seconds"] = [row["wall_seconds"] if walled else None for row in mine]
        columns |= {name: [row.get(name) for row in mine] for name in names}
        curves[group] = _thin(columns)
    return curves


def _seconds(logged: Sequence[tuple[int, float | None]]) -> list[tuple[int, float]]:
    """(step, seconds since step 0) of each log; empty if any log has no time."""
    knots, last, total = [], 0, 0.0
    for step, seconds in logged:
        if seconds is None:
            return []
        total += seconds * (step - last)
        last = step
        knots.append((step, round(total, 3)))
    return knots


def _time_of(step: int, knots: Sequence[tuple[int, float]]) -> float | None:
    """The time of a step, interpolated between logs and extrapolated after the last."""
    if not knots:
        return None
    before = (0, 0.0)
    for at, seconds in knots:
        if step <= at or (at, seconds) == knots[-1]:
            pace = (seconds - before[1]) / max(at - before[0], 1)
            return round(before[1] + pace * (step - before[0]), 3)
        before = (at, seconds)
    return None


def _thin(columns: dict[str, list]) -> dict[str, list]:
    width = math.ceil(len(columns["step"]) / _POINTS)
    if width < 2:
        return columns

    def mean(values: list) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    starts = range(0, len(columns["step"]), width)
    return {
        name: [mean(values[start : start + width]) for start in starts]
        for name, values in columns.items()
    }
