"""The rows of a sweep's table: scores of variants and runs, compared with the baseline."""

import dataclasses
import json
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from capjax.metrics import coco
from experiments.resampling import (
    bootstrap_sums,
    interval,
    p_value,
    sample_deviation,
    swapped_sums,
)
from experiments.sweep_files import Evaluation, Images, Run, Sweep

RESAMPLES = 2000
"""Number of resamples; a p value of 0.05 then has an error of about 0.01."""

SEED = 0
"""Seed of the resamples, which all rows of an evaluation share."""

PERCENT = (*coco.METRICS, "METEOR")
"""Metrics given in percent; others are fractions."""

_BLEU = tuple(f"BLEU-{n}" for n in range(1, 5))


@dataclasses.dataclass(frozen=True)
class Score:
    """One metric of a row.

    Attributes:
      value: the value of a run, or the mean over a variant's seeds.
      low, high: its 95% interval over images; None without results by image.
      deviation: sample deviation over seeds; None for one seed.
      difference: from the baseline, over the seeds of both; None for the baseline itself.
      difference_low, difference_high: its 95% interval over images.
      p: two-sided p value of the difference, not corrected for the number of rows.
    """

    value: float
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A run, or all runs of a variant, in one evaluation.

    Attributes:
      run: the run's name; None in a variant's row.
      seeds: the seeds with this evaluation; in a run's row, its own.
      status: the run's status, or counts such as "1 done, 1 failed".
      error: the message of the first failed run.
      fields: the values of `differing_fields`; None if the config has no such field, or if the run
        has not started.
      images: number of captioned images.
      seconds: "train" and "evaluate". These and captions_per_second are means over the runs with
        this evaluation, peak_memory_mib is their maximum; None if not measured.
      scores: metric -> Score of metrics that all runs with this evaluation have; empty without
        evaluations.
    """

    variant: str
    run: str | None
    evaluation: str
    seeds: tuple[int, ...]
    status: str
    error: str | None
    fields: dict[str, Any]
    images: int | None
    seconds: dict[str, float]
    captions_per_second: float | None
    peak_memory_mib: float | None
    parameters: int | None
    trainable_parameters: int | None
    scores: dict[str, Score]


def differing_fields(sweep: Sweep) -> list[str]:
    """The config's fields that differ between variants, except the seed."""
    values = defaultdict(set)
    overrides = [_first(sweep, variant).overrides for variant in sweep.variants]
    for field in dict.fromkeys(field for own in overrides for field in own if field != "seed"):
        # A variant without an override has another value than all variants with one.
        values[field] = {json.dumps(own[field]) if field in own else None for own in overrides}
    return [field for field, found in values.items() if len(found) > 1]


def compare(sweep: Sweep, resamples: int = RESAMPLES) -> list[Row]:
    """Makes the rows: by evaluation, by variant, the variant's row before those of its runs."""
    fields = differing_fields(sweep)
    rows = []
    for evaluation in sweep.evaluations:
        runs = [run for run in sweep.runs if evaluation in run.evaluations]
        found = {run.name: run.evaluations[evaluation] for run in runs}
        baseline = {run.seed: run.name for run in runs if run.variant == sweep.baseline}
        pairs = {
            run.name: baseline[run.seed]
            for run in runs
            if run.variant != sweep.baseline and run.seed in baseline
        }
        resampled = _resample(found, pairs, resamples)
        for variant in sweep.variants:
            own = [run for run in sweep.runs if run.variant == variant]
            for name, group in ((None, own), *((run.name, [run]) for run in own)):
                members = [run.name for run in group if run.name in found]
                scores = dict(_scores(members, found, pairs, resampled))
                rows.append(_row(name, evaluation, group, found, fields, scores))
    return rows


def _row(
    name: str | None,
    evaluation: str,
    group: Sequence[Run],
    found: Mapping[str, Evaluation],
    fields: Sequence[str],
    scores: dict[str, Score],
) -> Row:
    first = group[0]
    counts = Counter(run.status for run in group)
    status = ", ".join(f"{count} {status}" for status, count in counts.items())
    evaluated = [run for run in group if run.name in found]
    counted = evaluated or group  # A run that failed half way would look fast.
    return Row(
        variant=first.variant,
        run=name,
        evaluation=evaluation,
        seeds=tuple(run.seed for run in (group if name else evaluated)),
        status=first.status if len(group) == 1 else status,
        error=next((run.error for run in group if run.error), None),
        fields={field: first.overrides.get(field, first.config.get(field)) for field in fields},
        images=found[evaluated[0].name].record.get("images") if evaluated else None,
        seconds={
            "train": _mean(run.seconds.get("train") for run in counted),
            "evaluate": _mean(
                run.seconds.get(os.path.basename(found[run.name].stem)) for run in evaluated
            ),
        },
        captions_per_second=_mean(run.captions_per_second for run in counted),
        peak_memory_mib=max(_known(run.peak_memory_mib for run in counted), default=None),
        parameters=next(iter(_known(run.parameters for run in group)), None),
        trainable_parameters=next(iter(_known(run.trainable_parameters for run in group)), None),
        scores=scores,
    )


@dataclasses.dataclass(frozen=True)
class _Resampled:
    """Resampled scores of runs that captioned the same images.

    Attributes:
      bootstrap: run -> metric -> [R].
      swapped: run -> metric -> [R], differences from the baseline's run after swaps.
    """

    bootstrap: dict[str, dict[str, np.ndarray]]
    swapped: dict[str, dict[str, np.ndarray]]


def _resample(
    found: Mapping[str, Evaluation], pairs: Mapping[str, str], resamples: int
) -> list[_Resampled]:
    """Resamples the runs of an evaluation, grouped by equal images and references."""
    together: dict[Hashable, dict[str, Images]] = defaultdict(dict)
    for name, evaluation in found.items():
        if images := evaluation.images:
            key = images.ids, images.references, tuple(sorted(images.metrics))
            together[key][name] = images
    return [_resample_images(images, pairs, resamples) for images in together.values()]


def _resample_images(
    runs: Mapping[str, Images], pairs: Mapping[str, str], resamples: int
) -> _Resampled:
    places = {name: place for place, name in enumerate(runs)}
    first = next(iter(runs.values()))
    means, number = sorted(first.metrics), len(first.ids)
    statistics = np.stack(
        [
            np.column_stack([*(images.metrics[name] for name in means), images.bleu])
            for images in runs.values()
        ],
        axis=1,
    )

    def scores(sums: np.ndarray) -> np.ndarray:
        mean, bleu = np.split(sums, [len(means)], axis=-1)
        return np.concatenate([mean / number, coco.bleu_of(bleu)], axis=-1)

    def by_metric(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip((*means, *_BLEU), values.T, strict=True))

    values = scores(bootstrap_sums(statistics, resamples, SEED))
    paired = [name for name in runs if pairs.get(name) in places]
    sides = [[places[name] for name in side] for side in (paired, map(pairs.get, paired))]
    left, right = swapped_sums(*(statistics[:, side] for side in sides), resamples, SEED)
    differences = scores(left) - scores(right)
    return _Resampled(
        {name: by_metric(values[:, place]) for name, place in places.items()},
        {name: by_metric(differences[:, place]) for place, name in enumerate(paired)},
    )


def _scores(
    members: Sequence[str],
    found: Mapping[str, Evaluation],
    pairs: Mapping[str, str],
    resampled: Sequence[_Resampled],
) -> Iterator[tuple[str, Score]]:
    """Yields (metric, score) of a group of runs: those of a variant, or a single run."""
    if not members:
        return
    for metric in found[members[0]].metrics:
        if not all(metric in found[name].metrics for name in members):
            continue  # Its mean would be over other seeds than the row's.
        values = [found[name].metrics[metric] for name in members]
        score = {"value": np.mean(values), "deviation": sample_deviation(values)}
        if same := _together(resampled, members, metric):
            drawn = _average(same.bootstrap, members, metric)
            score["low"], score["high"] = interval(drawn)
        paired = [n for n in members if n in pairs and metric in found[pairs[n]].metrics]
        beside = [pairs[name] for name in paired]
        if paired:
            differences = [
                found[name].metrics[metric] - found[other].metrics[metric]
                for name, other in zip(paired, beside, strict=True)
            ]
            score["difference"] = np.mean(differences)
            if same := _together(resampled, [*paired, *beside], metric):
                drawn = _average(same.bootstrap, paired, metric)
                drawn = drawn - _average(same.bootstrap, beside, metric)
                score["difference_low"], score["difference_high"] = interval(drawn)
                swapped = _average(same.swapped, paired, metric)
                score["p"] = p_value(score["difference"], swapped)
        known = {part: float(value) for part, value in score.items() if value is not None}
        yield metric, Score(**known)


def _together(
    resampled: Sequence[_Resampled], names: Sequence[str], metric: str
) -> _Resampled | None:
    """Finds the resamples that all these runs share."""
    for same in resampled:
        if same.bootstrap.keys() >= set(names) and metric in same.bootstrap[names[0]]:
            return same
    return None


def _average(
    values: Mapping[str, Mapping[str, np.ndarray]], names: Sequence[str], metric: str
) -> np.ndarray:
    return np.mean([values[name][metric] for name in names], axis=0)


def _first(sweep: Sweep, variant: str) -> Run:
    return next(run for run in sweep.runs if run.variant == variant)


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) / len(known) if known else None


def _known(values: Iterable[float | None]) -> list[float]:
    """The measured values, none of which can be 0."""
    return [value for value in values if value]
