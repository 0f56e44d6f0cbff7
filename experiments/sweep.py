"""Trains and evaluates all runs of a sweep file, one after another or several at once.

    python -m experiments.sweep experiments/shapes_variants.py --workdir runs/shapes_variants
    python -m experiments.sweep experiments/flickr8k_variants.py --config.dataset.root=flickr8k

Every --config.field=value applies to all runs. The same command continues a sweep that was
interrupted or extended, and skips what is done. A failed run is named, and the others continue.
`experiments.variants` documents sweep files, `experiments.sweep_plan` the workdir. Exit statuses:

    0   all runs are done
    1   some runs failed; stderr names them
    2   an error in the command line or the sweep file
    75  stopped by a signal after saving; run the same command again
"""

import argparse
import fnmatch
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging

from capjax.cli.flags import ERROR, USAGE, fail
from capjax.cli.log import show_log
from capjax.config.errors import ConfigError
from capjax.run.workdir import Workdir, WorkdirError, default_workdir
from capjax.train.signals import EXIT_STATUS, Interruption
from experiments.results import write_results
from experiments.shares import Job, make_shares, run_jobs
from experiments.sizes import Size, size_by_words
from experiments.sweep_files import BEGUN, DONE, FAILED, LOG
from experiments.sweep_plan import (
    Run,
    RunRecord,
    is_evaluated,
    make_runs,
    read_record,
    read_sweep_file,
    sweep_record,
    write_record,
    write_sweep,
)
from experiments.variants import SweepError

# Last lines of the log that are reported if a process ended without an error in its record.
_LAST_LINES = 5


def left_to_do(run: Run, directory: str) -> list[str]:
    """The remaining work of a run: "train", names of evaluations, or nothing."""
    path = os.path.join(directory, run.workdir)
    record = read_record(path)
    try:
        Workdir(path).check_same_run(run.config)
        trained = record.parameters is not None
    except WorkdirError:
        trained = False  # No run, or a run of another config, which training refuses.
    rest = [
        name for name in run.evaluations if not (trained and is_evaluated(run, path, record, name))
    ]
    if trained and not rest and record.status != DONE:
        return ["its record"]
    return rest if trained else ["train", *rest]


def command(file: str, run: Run, directory: str, fields: Sequence[str]) -> list[str]:
    """The arguments of the Python process that does one run."""
    place = ["--run", run.name, "--workdir", directory]
    return ["-m", "experiments.sweep_run", file, *place, *fields]


class Progress:
    """Prints the progress of a sweep, and records errors that a run's own process could not.

    Attributes:
      failed: name -> error of each failed run.
      left: names of interrupted runs.
    """

    def __init__(self, directory: str, runs: Sequence[Run]):
        """Follows the sweep of all `runs` in `directory`."""
        self.failed: dict[str, str] = {}
        self.left: list[str] = []
        self._directory = directory
        # The byte of each run's log at which this process of it begins.
        self._starts: dict[str, int] = {}
        self._numbers = {run.name: number for number, run in enumerate(runs, 1)}

    def say(self, run: Run, text: str) -> None:
        """Prints a line about one run."""
        total = len(self._numbers)
        number = str(self._numbers[run.name]).rjust(len(str(total)))
        print(f"[{number}/{total}] {run.name}: {text}", flush=True)

    def begin(self, run: Run) -> None:
        """Records that a run is about to start."""
        path = os.path.join(self._directory, run.workdir)
        record = read_record(path)
        record.status, record.error = BEGUN, None
        write_record(path, record)
        log = os.path.join(path, LOG)
        self._starts[run.name] = os.path.getsize(log) if os.path.exists(log) else 0
        self.say(run, f"starts, to do: {', '.join(left_to_do(run, self._directory))}")

    def end(self, run: Run, status: int) -> None:
        """Records how a run's process has ended."""
        path = os.path.join(self._directory, run.workdir)
        record = read_record(path)
        if status in (EXIT_STATUS, -signal.SIGTERM, -signal.SIGINT):
            self.left.append(run.name)
            self.say(run, "stopped by a signal, to be continued")
        elif status:
            if record.status != FAILED:
                why = _reason(status, os.path.join(path, LOG), self._starts[run.name])
                record.status, record.error = FAILED, why
                write_record(path, record)
            # On one line: the error of a changed config lists fields on several.
            self.failed[run.name] = " ".join((record.error or "no reason given").split())
            self.say(run, f"failed: {self.failed[run.name]}")
        else:
            self.say(run, f"done, {_summary(record)}")
        self.write_results()

    def write_results(self) -> None:
        """Updates the tables; an error in them is a warning, so that the sweep continues."""
        try:
            write_results(self._directory)
        except (OSError, ValueError) as error:
            print(f"warning: no table of results: {error}", file=sys.stderr)


def _reason(status: int, log: str, start: int) -> str:
    """The error at the end of a log, from the byte `start` on, where this process began."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    last = [line.strip() for line in lines if line.strip()][-_LAST_LINES:]
    if status > 0 and last and last[-1].startswith("error: "):
        return last[-1].removeprefix("error: ")
    how = f"exit status {status}"
    if status < 0:
        how = f"killed by {signal.Signals(-status).name}"
    return " | ".join([how, *last])


def _summary(record: RunRecord) -> str:
    train = record.seconds["train"] / 60
    evaluate = sum(record.seconds.values()) / 60 - train
    rate = "" if record.captions_per_second is None else f"{record.captions_per_second:.0f} "
    return (
        f"trained in {train:.1f} minutes ({rate}captions/s), evaluated in {evaluate:.1f}, "
        f"{record.peak_memory_mib:.0f} MiB"
    )


def show_plan(directory: str, runs: Sequence[Run]) -> None:
    """Prints the remaining work and the sizes of the models.

    Raises:
      SweepError: no model can be built from a config.
    """
    sizes: dict[str, list[str]] = {}
    rows = [("run", "parameters", "trainable", "to do")]
    for run in runs:
        if run.variant not in sizes:
            try:
                fixed, word = size_by_words(run.config)
            except ConfigError as error:
                raise SweepError(f"variant {run.variant}: {error}") from error
            sizes[run.variant] = [_size(fixed, word, of) for of in range(len(Size._fields))]
        to_do = ", ".join(left_to_do(run, directory)) or "nothing"
        rows.append((run.name, *sizes[run.variant], to_do))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print(f"{len(runs)} runs; each word of the vocabulary adds the number after the +")


def _size(fixed: Size, word: Size, of: int) -> str:
    return f"{fixed[of]:,} + {word[of]:,}"


def choose(runs: Sequence[Run], pattern: str) -> list[Run]:
    """The runs whose names match; raises SweepError if none does."""
    chosen = [run for run in runs if fnmatch.fnmatchcase(run.name, pattern)]
    if not chosen:
        names = ", ".join(run.name for run in runs)
        raise SweepError(f"--only={pattern} matches no run; the runs are {names}")
    return chosen


def run_sweep(
    options: argparse.Namespace,
    fields: Sequence[str],
    runs: Sequence[Run],
    chosen: Sequence[Run],
    record: Mapping[str, Any],
) -> int:
    """Does the remaining work of the chosen runs; returns the exit status.

    Raises:
      SweepError: there are fewer devices than runs at once.
      WorkdirError: another process runs the sweep, or the disk is full.
    """
    shares = make_shares(options.parallel)
    directory = options.workdir
    with Interruption() as interruption, Workdir(directory).train_lock():
        interruption.poll()  # Nothing before the first run takes long.
        write_sweep(directory, record)
        progress = Progress(directory, runs)
        todo = [run for run in chosen if left_to_do(run, directory)]
        for run in chosen:
            if run not in todo:
                progress.say(run, "already done")
        jobs = [
            Job(
                [sys.executable, *command(options.file, run, directory, fields), "--watch_stdin"],
                os.path.join(directory, run.workdir, LOG),
            )
            for run in todo
        ]
        if not jobs:
            progress.write_results()
        run_jobs(
            jobs,
            shares,
            interruption=interruption,
            begin=lambda number: progress.begin(todo[number]),
            end=lambda number, status: progress.end(todo[number], status),
        )
    for name, error in progress.failed.items():
        print(f"error: {name}: {error}", file=sys.stderr)
    if interruption.requested or (progress.left and not progress.failed):
        print(f"stopped by a signal: the same command continues {directory}", flush=True)
        return EXIT_STATUS
    print(f"{directory}: of {len(chosen)} runs {len(progress.failed)} failed", flush=True)
    return ERROR if progress.failed else 0


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="--config.FIELD=VALUE sets a field of all runs",
        allow_abbrev=False,
    )
    parser.add_argument("file", help="sweep file, such as experiments/shapes_variants.py")
    parser.add_argument("--workdir", help="folder of the sweep (default: runs/NAME of the file)")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only runs whose names match")
    parser.add_argument(
        "--parallel", type=int, default=1, metavar="N", help="number of runs at once"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry_run", action="store_true", help="list the remaining work and model sizes"
    )
    what.add_argument("--commands", action="store_true", help="print a shell command for each run")
    options, fields = parser.parse_known_args()
    options.workdir = options.workdir or default_workdir(options.file)
    show_log()
    logging.set_verbosity(logging.WARNING)
    # Leaves the accelerators to the runs.
    jax.config.update("jax_platforms", "cpu")
    try:
        sweep = read_sweep_file(options.file)
        runs = make_runs(sweep, fields)
        chosen = choose(runs, options.only)
        Workdir(options.workdir).check_place()
        if options.dry_run:
            show_plan(options.workdir, chosen)
            return
        record = sweep_record(options.file, sweep, runs)
        if not options.commands:
            sys.exit(run_sweep(options, fields, runs, chosen, record))
        write_sweep(options.workdir, record)
        for run in chosen:
            if left_to_do(run, options.workdir):
                line = command(options.file, run, options.workdir, fields)
                print(shlex.join(["python", *line]))
    except SweepError as error:
        fail(str(error), USAGE)
    except WorkdirError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
