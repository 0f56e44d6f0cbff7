"""The folder of a sweep, read for tables and reports.

sweep.json                          the runs, the baseline, and how each run is evaluated
runs/NAME/                          the workdir of a run
runs/NAME/sweep_run.json            its status and evaluations; written when it starts
runs/NAME/evaluation/STEM.*.json    written by `python -m capjax.main --mode evaluate`
"""

import dataclasses
import glob
import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from capjax.config.identity import canonical, tuples
from capjax.config.upgrade import upgrade, upgrade_flat
from capjax.files.errors import ReportedError
from capjax.files.text import dotted, member, parse_json

SWEEP, RECORD, LOG, LOCK = "sweep.json", "sweep_run.json", "log.txt", "sweep_run.lock"

SPLIT = "validation"
"""The split on which runs are evaluated."""

BEGUN, DONE, FAILED = "begun", "done", "failed"
"""Statuses in sweep_run.json; "begun" is running or interrupted."""

WAITING, OUTDATED = "waiting", "outdated"
"""Statuses of a run without sweep_run.json, and of a workdir with another config."""

_Read = TypeVar("_Read")


class ResultsError(ReportedError, ValueError):
    """A sweep whose results cannot be read; the message names the file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Images:
    """The results of an evaluation by image, sorted by image id.

    Attributes:
      ids: the ids of I images.
      references: the raw references of each image.
      metrics: name -> float [I]; their mean is the value of the split.
      bleu: int [I, 9], see `capjax.metrics.coco.bleu_of`.
    """

    ids: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    metrics: dict[str, np.ndarray]
    bleu: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
      stem: path of its files without their endings.
      metrics: name -> value of the split.
      record: the content of STEM.metrics.json.
      images: None for evaluations of earlier versions, or if no image has a reference.
    """

    stem: str
    metrics: dict[str, float]
    record: dict[str, Any]
    images: Images | None


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      workdir: the path of its folder.
      overrides: dotted field -> value where the config differs from the sweep's.
      config: dotted field -> value; empty before the run starts.
      status: "waiting", "begun", "done", "failed" or "outdated", which has no results.
      error: the message of a failed run.
      seconds: of "train", and of each evaluation by the name of its stem.
      captions_per_second: in training.
      evaluations: the finished evaluations by name.
    """

    name: str
    variant: str
    seed: int
    workdir: str
    overrides: dict[str, Any]
    config: dict[str, Any]
    status: str
    error: str | None
    seconds: dict[str, float]
    captions_per_second: float | None
    peak_memory_mib: float | None
    parameters: int | None
    trainable_parameters: int | None
    evaluations: dict[str, Evaluation]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep and its results so far.

    Attributes:
      file: the sweep's Python file.
      code: the versions with which it was last started.
      baseline: the variant with which others are compared.
      evaluations: name -> decoding fields.
    """

    directory: str
    file: str
    code: Any
    baseline: str
    evaluations: dict[str, dict[str, Any]]
    runs: tuple[Run, ...]

    @property
    def variants(self) -> list[str]:
        """The names of the variants in the sweep's order."""
        return list(dict.fromkeys(run.variant for run in self.runs))


def read_sweep(directory: str) -> Sweep:
    """Reads the folder of a sweep, which may be incomplete.

    Raises:
      ResultsError: there is no sweep, or a file is damaged.
    """
    file = os.path.join(directory, SWEEP)
    if not os.path.isfile(file):
        raise ResultsError(
            f"{directory} is no sweep: it has no {SWEEP}. Make one with "
            "`python -m experiments.sweep experiments/shapes_variants.py --workdir DIR`"
        )

    def read(found: Any) -> Sweep:
        return Sweep(
            directory,
            member(found, "file", str, file),
            found.get("code"),
            member(found, "baseline", str, file),
            member(found, "evaluations", dict, file),
            tuple(_run(directory, row, file) for row in member(found, "runs", list, file)),
        )

    return _read(file, read, "start the sweep again, which writes it")


def read_workdir(directory: str) -> Sweep:
    """Reads the workdir of a single run as a sweep of one, with its evaluations on validation.

    Raises:
      ResultsError: there is no run, or a file is damaged.
    """
    file = os.path.join(directory, "config.json")
    if not os.path.isfile(file):
        raise ResultsError(
            f"{directory} is no sweep and no run: it has no {SWEEP} and no config.json"
        )
    name = os.path.basename(os.path.abspath(directory))
    row = {"name": name, "variant": name, "seed": 0, "workdir": "", "overrides": {}}
    run = _run(directory, row, file)
    again = "evaluate the run again"
    stems = glob.glob(f"{SPLIT}-*.metrics.json", root_dir=os.path.join(directory, "evaluation"))
    found = [
        _evaluation(
            os.path.join(directory, "evaluation", stem.removesuffix(".metrics.json")), again
        )
        for stem in sorted(stems)
    ]
    # The latest step first: its checkpoint is the most likely to exist.
    found.sort(key=lambda evaluation: -evaluation.record["step"])
    evaluations = {
        os.path.basename(evaluation.stem).removeprefix(f"{SPLIT}-"): evaluation
        for evaluation in found
    }
    run = dataclasses.replace(
        run, seed=run.config.get("seed", 0), status=DONE, evaluations=evaluations
    )
    asked = {label: {} for label in evaluations} or {"none yet": {}}
    return Sweep(directory, "", None, name, asked, (run,))


def _run(directory: str, row: Any, file: str) -> Run:
    workdir = os.path.join(directory, member(row, "workdir", str, file))
    again = f"copy it again from where the run was made, or delete {workdir} and train it again"
    decodings = row.get("decodings") or {}  # Absent in sweeps of earlier versions.

    def read_config(found: Any) -> dict[str, Any]:
        return dotted(upgrade(found))

    config = _read_if_there(os.path.join(workdir, "config.json"), read_config, again) or {}
    # A field that only one side has comes from another version, or from another part of a section,
    # whose name differs then.
    wanted = canonical(tuples(upgrade_flat(row["config"]))) if row.get("config") else {}
    saved = canonical(tuples(config))
    outdated = any(saved[field] != wanted[field] for field in saved.keys() & wanted.keys())

    def read(found: Any) -> dict[str, Any]:
        # The sweep file may have changed or removed the decoding of a name since.
        stems = {
            name: os.path.join(workdir, "evaluation", stem)
            for name, stem in (found.get("evaluations") or {}).items()
            if stem.endswith(decodings.get(name, "")) and (name in decodings or not decodings)
        }
        # Missing attributes are not known yet.
        names = ("captions_per_second", "peak_memory_mib", "parameters", "trainable_parameters")
        status = member(found, "status", str, state)
        if outdated:
            # Until the sweep is continued and reports the difference as an error.
            status = status if status == FAILED else OUTDATED
            stems, found = {}, {"error": found.get("error")}
        return {
            "status": status,
            "error": found.get("error"),
            "seconds": found.get("seconds") or {},
            **{name: found.get(name) for name in names},
            "evaluations": {
                name: _evaluation(stem, f"delete {stem}.* and start the sweep again")
                for name, stem in stems.items()
            },
        }

    state = os.path.join(workdir, RECORD)
    return Run(
        member(row, "name", str, file),
        member(row, "variant", str, file),
        member(row, "seed", int, file),
        workdir,
        member(row, "overrides", dict, file),
        config,
        **(_read_if_there(state, read, "start the sweep again") or read({"status": WAITING})),
    )


def _evaluation(stem: str, again: str) -> Evaluation:
    file = f"{stem}.metrics.json"

    def read(found: Any) -> dict[str, float]:
        metrics = member(found, "metrics", dict, file)
        member(found, "step", int, file)
        return found | {"metrics": {name: float(value) for name, value in metrics.items()}}

    record = _read(file, read, again)
    images = _read_if_there(f"{stem}.images.json", _images, again)
    if images:
        for name, values in images.metrics.items():
            mean, whole = values.mean(), record["metrics"].get(name)
            if whole is None or abs(mean - whole) > 1e-6:
                reason = f"its {name} is {mean:g}, but {os.path.basename(file)} has {whole}"
                raise _damaged(f"{stem}.images.json", reason, again)
    return Evaluation(stem, record["metrics"], record, images)


def _images(found: Any) -> Images | None:
    ids, bleu = found["image_ids"], found["bleu"]
    if not ids:
        return None
    order = sorted(range(len(ids)), key=ids.__getitem__)
    columns = [*np.transpose(bleu["matches"]), *np.transpose(bleu["totals"])]
    statistics = np.array([*columns, bleu["reference_lengths"]]).T
    metrics = {name: np.array(values, float) for name, values in found["metrics"].items()}
    shapes = {statistics.shape, *((*values.shape, 9) for values in metrics.values())}
    if shapes != {(len(ids), 9)}:
        raise ValueError(f"it has {len(ids)} images, but values of shapes {sorted(shapes)}")
    ids = tuple(ids[index] for index in order)
    return Images(
        ids,
        tuple(tuple(found["references"][image_id]) for image_id in ids),
        {name: values[order] for name, values in metrics.items()},
        statistics[order],
    )


def _read_if_there(file: str, read: Callable[[Any], _Read], again: str) -> _Read | None:
    return _read(file, read, again) if os.path.exists(file) else None


def _read(file: str, read: Callable[[Any], _Read], again: str) -> _Read:
    """Applies `read` to a JSON file; `again` is the remedy in the message of an error."""
    try:
        with open(file, "rb") as stream:
            return read(parse_json(stream.read()))
    except ResultsError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)
        raise _damaged(file, reason, again) from error


def _damaged(file: str, reason: str, again: str) -> ResultsError:
    reason = " ".join(reason.split())
    # Some messages name the file already.
    return ResultsError(f"{reason if file in reason else f'{file} is damaged: {reason}'}; {again}")
