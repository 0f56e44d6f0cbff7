"""Makes the runs of a sweep file and a command line, and their records on disk.

sweep.json              the sweep: see `sweep_record`
runs/NAME/              an ordinary workdir, see `Workdir`, with in addition:
    sweep_run.json      the progress of the run: see `RunRecord`
    sweep_run.lock      held by the process of the run
    log.txt             its output
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from capjax.cli.errors import error_in
from capjax.cli.flags import field_names
from capjax.cli.python_file import call_in_file, file_of
from capjax.config import build, checks
from capjax.config.identity import fixed_fields, flat
from capjax.evaluate.results import code_version
from capjax.files.atomic import write_json
from capjax.files.text import nearest, parse_json
from experiments.sweep_files import BEGUN, RECORD, SWEEP
from experiments.variants import Sweep, SweepError, Variant, apply, check


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: the variant's name and the seed; also the name of its folder.
      variant: the variant's name.
      seed: the seed.
      config: the whole config.
      evaluations: name -> the config with the evaluation's decoding section.
      overrides: dotted field -> value where the config differs from the sweep's, except the seed.
    """

    name: str
    variant: str
    seed: int
    config: ConfigDict
    evaluations: Mapping[str, ConfigDict]
    overrides: Mapping[str, Any]

    @property
    def workdir(self) -> str:
        """The folder of the run, relative to the sweep's."""
        return f"runs/{self.name}"


@dataclasses.dataclass
class RunRecord:
    """The progress of a run: the content of sweep_run.json.

    Attributes:
      status: "begun" (running or interrupted), "done" or "failed".
      error: the message of a failed run.
      seconds: of "train", as "wall_seconds" of `metrics.jsonl`, without the wait for features and
        without work lost to a kill; and of each evaluation by the stem of its files.
      captions_per_second: the median in training; None before the first log.
      peak_memory_mib: of the first accelerator; or else of the process, including mapped features,
        which are gigabytes that other runs share.
      parameters: number of parameters of the whole model.
      trainable_parameters: number of those that training changes.
      evaluations: name -> stem of its files in evaluation/.
    """

    status: str = BEGUN
    error: str | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    captions_per_second: float | None = None
    peak_memory_mib: float = 0.0
    parameters: int | None = None
    trainable_parameters: int | None = None
    evaluations: dict[str, str] = dataclasses.field(default_factory=dict)


def read_sweep_file(source: str) -> Sweep:
    """Reads the sweep of a file; "FILE:ARGUMENT" passes its get_sweep an argument.

    Raises:
      SweepError: there is no such file, or it returns no sweep.
    """
    file = file_of(source)
    if not os.path.isfile(file):
        raise SweepError(
            f"there is no file {file!r}; a sweep file is a Python file such as "
            "experiments/shapes_variants.py"
        )
    try:
        sweep = call_in_file(source, "get_sweep", Sweep, like="experiments/shapes_variants.py")
        check(sweep)
    except Exception as error:  # The file may raise anything.
        raise SweepError(f"{source}: {error_in(file, error)}") from error
    return sweep


def make_runs(sweep: Sweep, arguments: Sequence[str] = ()) -> list[Run]:
    """Makes all runs, sorted by seed.

    Args:
      sweep: the sweep.
      arguments: "--config.field=value" for every run, applied after its variant.

    Raises:
      SweepError: a config is invalid; the message names the variant and the field.
    """
    for text in arguments:
        _field(text)  # Checked first, since this error concerns no variant.
    return [_make_run(sweep, name, *chosen, arguments) for name, chosen in _named(sweep).items()]


def make_run(sweep: Sweep, name: str, arguments: Sequence[str] = ()) -> Run:
    """Makes one run of `make_runs`; raises SweepError also if no run has the name."""
    found = _named(sweep)
    if name not in found:
        raise SweepError(f"there is no run {name!r}; the runs are {', '.join(found)}")
    return _make_run(sweep, name, *found[name], arguments)


def _named(sweep: Sweep) -> dict[str, tuple[Variant, int]]:
    """Run name -> variant and seed, in the order of runs."""
    return {
        f"{variant.name}-seed{seed}": (variant, seed)
        for seed in sweep.seeds
        for variant in sweep.variants
    }


def _make_run(
    sweep: Sweep, name: str, variant: Variant, seed: int, arguments: Sequence[str]
) -> Run:
    try:
        # Copied, since the function may return the same object each time.
        config = sweep.config().copy_and_resolve_references()
        base = config.copy_and_resolve_references()
        apply(config, variant.overrides)
        config.seed = seed
        set_fields(config, arguments)
        # A field of the command line is an override only if the base config lacks it.
        there = set(field_names(base))
        set_fields(base, [text for text in arguments if _field(text) in there])
        checks.check(config)
        evaluations = {
            label: _evaluated(config, label, fields) for label, fields in sweep.evaluations.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise SweepError(f"variant {variant.name}: {error}") from error
    same = flat(base)
    overrides = {
        field: value
        for field, value in flat(config).items()
        if field != "seed" and (field not in same or same[field] != value)
    }
    return Run(name, variant.name, seed, config, evaluations, overrides)


def _evaluated(config: ConfigDict, name: str, fields: Mapping[str, Any]) -> ConfigDict:
    evaluated = config.copy_and_resolve_references()
    try:
        apply(evaluated, {f"decoding.{field}": value for field, value in fields.items()})
        checks.check(evaluated)
    except ValueError as error:
        raise SweepError(f"evaluation {name}: {error}") from error
    return evaluated


def set_fields(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Sets the fields of "--config.field=value" arguments.

    Raises:
      SweepError: there is no such field, or the value has another type.
    """
    for text in arguments:
        field = _field(text)
        if field not in (names := set(field_names(config))):
            raise SweepError(f"{text}: there is no such field; {nearest(field, names)}")
    known = flags.FlagValues()
    argv = ["sweep", *arguments]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=known, sys_argv=argv)
        known(argv)
    except (flags.Error, ValueError, TypeError) as error:
        raise SweepError(" ".join(str(error).split())) from error
    config.unlock()


def _field(text: str) -> str:
    match = re.fullmatch(r"--config\.([^=]+)=.*", text, re.DOTALL)
    if match is None:
        raise SweepError(
            f"unexpected argument {text!r}; fields are --config.field=value, and --help lists "
            "the options"
        )
    return match[1]


def sweep_record(file: str, sweep: Sweep, runs: Sequence[Run]) -> dict[str, Any]:
    """The content of sweep.json, from which tables and reports are made."""
    code = code_version()
    del code["backend"]  # The backend of this process, which does not train.
    return {
        "file": file,
        "code": code,
        "baseline": sweep.baseline,
        "evaluations": {name: dict(fields) for name, fields in sweep.evaluations.items()},
        "runs": [
            {
                "name": run.name,
                "variant": run.variant,
                "seed": run.seed,
                "workdir": run.workdir,
                "overrides": dict(run.overrides),
                "config": fixed_fields(run.config),
                "decodings": {name: _decoding(run, name) for name in run.evaluations},
            }
            for run in runs
        ],
    }


def write_sweep(directory: str, record: Mapping[str, Any]) -> None:
    """Writes sweep.json."""
    write_json(os.path.join(directory, SWEEP), record)


def check_unchanged(directory: str, run: Run) -> None:
    """Raises SweepError if sweep.json is missing or has another config of this run."""
    file = os.path.join(directory, SWEEP)
    try:
        with open(file, "rb") as stream:
            entries = {entry["name"]: entry for entry in parse_json(stream.read())["runs"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SweepError(
            f"{file} can't be read ({error}); write it with python -m experiments.sweep, or its "
            "--commands"
        ) from error
    # Through JSON, so that tuples compare with lists.
    now = json.loads(json.dumps(fixed_fields(run.config)))
    if run.name not in entries or entries[run.name].get("config") != now:
        raise SweepError(
            f"{run.name} differs from {file}: the sweep file has changed since, or draws at "
            "random without a seed. Start the sweep again"
        )


def read_record(workdir: str) -> RunRecord:
    """Reads the record of a run; a new one if it is missing or damaged."""
    try:
        with open(os.path.join(workdir, RECORD), "rb") as stream:
            return RunRecord(**parse_json(stream.read()))
    except (OSError, ValueError, TypeError):
        return RunRecord()


def write_record(workdir: str, record: RunRecord) -> None:
    """Writes the record of a run."""
    write_json(os.path.join(workdir, RECORD), dataclasses.asdict(record))


def is_evaluated(run: Run, workdir: str, record: RunRecord, name: str) -> bool:
    """Tells whether an evaluation is done with the sweep's current decoding of that name."""
    stem = record.evaluations.get(name, "")
    return stem.endswith(f"-{_decoding(run, name)}") and is_written(workdir, stem)


def _decoding(run: Run, name: str) -> str:
    """The label of an evaluation's decoding, with which its stem ends."""
    return build.decoding_method(run.evaluations[name].decoding).label


def is_written(workdir: str, stem: str) -> bool:
    """Tells whether all files of an evaluation exist."""
    stem = os.path.join(workdir, "evaluation", stem)
    kinds = ("captions", "images", "metrics")
    return all(os.path.isfile(f"{stem}.{kind}.json") for kind in kinds)
