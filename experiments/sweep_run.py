"""Trains one run of a sweep and does all its evaluations.

    python -m experiments.sweep_run experiments/shapes_variants.py --run gru-seed0 \
        --workdir runs/shapes_variants

The same command continues an interrupted run. `python -m experiments.sweep` starts this command for
each run; with --commands it prints them instead, for a cluster's job array. The exit statuses are
those of `capjax.main`.
"""

import argparse
import os
import statistics
import sys
import time

import jax
from absl import logging

from benchmarks import sides
from capjax.cli.errors import ERRORS
from capjax.cli.flags import USAGE, fail
from capjax.cli.log import show_log
from capjax.config import build
from capjax.files.locks import one_at_a_time
from capjax.parallel import devices
from capjax.parallel.defaults import COMPILATION_CACHE
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

# The other process may belong to a killed sweep, or be a second job of a cluster.
_WAITING = "another process runs {}: waiting for it"


def run_one(run: Run, workdir: str, interruption: Interruption) -> None:
    """Does the remaining work of a run, and updates sweep_run.json.

    Args:
      run: the run of a sweep.
      workdir: the folder of the run.
      interruption: entered.

    Raises:
      Interrupted, SystemExit: a signal came; all is saved, except for an unfinished evaluation.
      Exception: any error of training or evaluation; sweep_run.json records it.
    """
    record = read_record(workdir)
    record.status, record.error = BEGUN, None
    write_record(workdir, record)
    try:
        _train(run, workdir, record)
        # Python drops an exception raised in a finaliser, so the signal is also polled.
        for name in interruption.watch(run.evaluations):
            if not is_evaluated(run, workdir, record, name):
                _evaluate(run, workdir, record, name)
    except Exception as error:
        # A broken pipe means that the reader of stdout was killed, not that the run failed.
        if not isinstance(error, BrokenPipeError):
            text = str(error) if isinstance(error, ERRORS) else f"{type(error).__name__}: {error}"
            record.status, record.error = FAILED, text
            write_record(workdir, record)
        raise
    # Drops evaluations that the sweep no longer has.
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
        # A known size means that training had ended before, and used no memory here.
        if record.parameters is None:
            _note_memory(workdir, record)
    words = load_tokenizer(workdir).vocab_size
    record.parameters, record.trainable_parameters = size(run.config, words)
    # The first rate after each start includes compilation, which the median ignores.
    rates = [row["captions_per_second"] for row in rows if "captions_per_second" in row]
    record.captions_per_second = statistics.median(rates) if rates else None
    write_record(workdir, record)


def _evaluate(run: Run, workdir: str, record: RunRecord, name: str) -> None:
    config = run.evaluations[name]
    with Workdir(workdir).checkpoints(config, read_only=True) as checkpoints:
        best = checkpoints.ranking()[0]
    stem = f"{SPLIT}-step{best}-{build.decoding_method(config.decoding).label}"
    # Two names of one decoding are evaluated once.
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
    """The peak memory so far in MiB: of the first accelerator, or else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    return sides.peak_memory_mib()


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("file", help="sweep file, such as experiments/shapes_variants.py")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--workdir", required=True, help="folder of the sweep")
    parser.add_argument("--watch_stdin", action="store_true", help="stop when stdin ends")
    options, fields = parser.parse_known_args()
    show_log()
    logging.set_verbosity(logging.WARNING)  # JAX and orbax log much at INFO.
    devices.compilation_cache(COMPILATION_CACHE)
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
        # Training handles signals itself; elsewhere a write may be cut short anywhere.
        with Interruption() as interruption, one_at_a_time(lock, _WAITING.format(run.name)):
            run_one(run, workdir, interruption)
    except Interrupted:
        print("stopped by a signal: the same command continues", flush=True)
        sys.exit(EXIT_STATUS)
    except ERRORS as error:
        fail(str(error))


if __name__ == "__main__":
    main()
