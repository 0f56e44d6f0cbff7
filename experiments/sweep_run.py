"""Trains one run of a sweep and evaluates it in all the sweep's ways.

    python -m experiments.sweep_run experiments/shapes_variants.py --run gru-seed0 \
        --workdir runs/shapes_variants

The same command continues it. `python -m experiments.sweep` starts this for every run, and with
--commands prints one such line a run, for a cluster's job array. Exit statuses are those of
`capjax.main`.
"""

import argparse
import os
import resource
import statistics
import sys
import time

import jax
from absl import logging

from capjax.cli.errors import ERRORS
from capjax.cli.flags import USAGE, fail
from capjax.config import build
from capjax.files.locks import one_at_a_time
from capjax.run.evaluate import evaluate, metrics_line
from capjax.run.load import load_tokenizer
from capjax.run.train import train
from capjax.run.workdir import Workdir
from capjax.train.signals import EXIT_STATUS, Interrupted, Interruption
from capjax.train.writer import read_metrics
from experiments.shares import leave_with_parent
from experiments.sizes import size
from experiments.sweep_files import BEGUN, DONE, FAILED, LOCK, LOG, SPLIT
from experiments.sweep_plan import (
    Run,
    RunRecord,
    check_unchanged,
    is_evaluated,
    is_written,
    make_run,
    read_record,
    read_sweep_file,
    write_record,
)
from experiments.variants import SweepError

# Whose sweep was killed, or a cluster's second job.
_WAITING = "another process does {}: waiting for it"


def run_one(run: Run, workdir: str, interruption: Interruption) -> None:
    """Does what is left to do of a run, and keeps sweep_run.json.

    Args:
      run: of a sweep.
      workdir: the run's own folder.
      interruption: entered.

    Raises:
      Interrupted, SystemExit: a signal came; all is saved but an evaluation begun.
      Exception: whatever `capjax.run.train` raises; the record says so.
    """
    record = read_record(workdir)
    record.status, record.error = BEGUN, None
    write_record(workdir, record)
    try:
        _train(run, workdir, record)
        # What a signal raises may be lost, as by Python in a finaliser: it is looked for, too.
        for name in interruption.watch(run.evaluations):
            if not is_evaluated(run, workdir, record, name):
                _evaluate(run, workdir, record, name)
    except Exception as error:
        # A broken pipe: what reads stdout was killed, and nothing is wrong with the run.
        if not isinstance(error, Interrupted | BrokenPipeError):
            text = str(error) if isinstance(error, ERRORS) else f"{type(error).__name__}: {error}"
            record.status, record.error = FAILED, text
            write_record(workdir, record)
        raise
    # Those that the sweep no longer has would stand in no column.
    record.evaluations = {name: record.evaluations[name] for name in run.evaluations}
    known = {"train", *record.evaluations.values()}
    record.seconds = {what: record.seconds[what] for what in record.seconds if what in known}
    record.status = DONE
    write_record(workdir, record)


def _train(run: Run, workdir: str, record: RunRecord) -> None:
    try:
        train(run.config, workdir)
    finally:
        rows = read_metrics(Workdir(workdir).path(Workdir.METRICS))
        record.seconds["train"] = max((row.get("wall_seconds", 0) for row in rows), default=0)
        # The size is known from the end of training on; after it, this has looked and no more.
        if record.parameters is None:
            _note_memory(workdir, record)
    words = load_tokenizer(workdir).vocab_size
    record.parameters, record.trainable_parameters = size(run.config, words)
    # Of each visit the first has the compilation in it, which a median passes over.
    rates = [row["captions_per_second"] for row in rows if "captions_per_second" in row]
    record.captions_per_second = statistics.median(rates) if rates else None
    write_record(workdir, record)


def _evaluate(run: Run, workdir: str, record: RunRecord, name: str) -> None:
    config = run.evaluations[name]
    with Workdir(workdir).checkpoints(config, read_only=True) as checkpoints:
        best = checkpoints.ranking()[0]
    stem = f"{SPLIT}-step{best}-{build.beam_search(config.decoding).label}"
    # Where two names mean one decoding, it is done once.
    if stem not in record.evaluations.values() or not is_written(workdir, stem):
        begin = time.perf_counter()
        try:
            print(metrics_line(evaluate(config, workdir, split=SPLIT, checkpoint=str(best))))
            record.seconds[stem] = time.perf_counter() - begin
        finally:
            _note_memory(workdir, record)
    record.evaluations[name] = stem
    write_record(workdir, record)


def _note_memory(workdir: str, record: RunRecord) -> None:
    record.peak_memory_mib = max(record.peak_memory_mib, peak_memory_mib())
    write_record(workdir, record)


def peak_memory_mib() -> float:
    """MiB in use at most so far: on the first accelerator, or without one in this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    try:
        # Linux's own count has that of the process which started this one in it.
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) / 2**10 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Reads the command line and does the run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("file", help="sweep file, such as experiments/shapes_variants.py")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--workdir", required=True, help="folder of the sweep")
    parser.add_argument("--watch_stdin", action="store_true", help="leave when stdin ends")
    options, fields = parser.parse_known_args()
    logging.set_verbosity(logging.WARNING)  # JAX and orbax tell much on INFO.
    build.compilation_cache(build.COMPILATION_CACHE)
    try:
        run = make_run(read_sweep_file(options.file), options.run, fields)
        check_unchanged(options.workdir, run)
    except SweepError as error:
        fail(str(error), USAGE)
    workdir = os.path.join(options.workdir, run.workdir)
    if options.watch_stdin:
        leave_with_parent(os.path.join(workdir, LOG))
    try:
        os.makedirs(workdir, exist_ok=True)
        lock = os.path.join(workdir, LOCK)
        # Training has its own; between, what is written may be cut short anywhere.
        with Interruption() as interruption, one_at_a_time(lock, _WAITING.format(run.name)):
            run_one(run, workdir, interruption)
    except Interrupted:
        print("stopped by a signal: the same command continues", flush=True)
        sys.exit(EXIT_STATUS)
    except ERRORS as error:
        fail(str(error))


if __name__ == "__main__":
    main()
