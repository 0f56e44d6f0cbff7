"""Trains a captioner, or evaluates one.

    capjax train --config shapes_transformer
    capjax evaluate --config shapes_transformer --split test

Any field of the config can be set: --config.decoder.num_layers=4. The run lies in --workdir, by
default runs/<name of the config and its argument>; the same command continues a run that was
interrupted. Several processes make one run where each is told of the others, by --coordinator,
--num_processes and --process_id, or by --distributed.

Exit statuses:
    0   done
    1   an error, which stderr names
    2   the command line is wrong: a flag, a field of the config, or the config file
    75  stopped by a signal after saving; run the same command again
"""

from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from capjax.cli import errors
from capjax.cli.flags import define_config, run
from capjax.config import build
from capjax.parallel import processes
from capjax.run.evaluate import evaluate, metrics_line
from capjax.run.train import train
from capjax.run.workdir import default_workdir


def define_flags() -> None:
    """Defines the flags."""
    define_config()
    flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<config name>.")
    flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
    flags.DEFINE_string("split", "validation", "Split that is evaluated.")
    flags.DEFINE_string(
        "checkpoint", "best", "Checkpoint that is evaluated: best, latest or a step."
    )
    flags.DEFINE_string(
        "compilation_cache",
        build.COMPILATION_CACHE,
        "Where JAX keeps compiled programs for the next start; empty keeps none.",
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "For a run of several processes: host:port of the first, which opens the port there.",
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
    flags.DEFINE_bool(
        "distributed",
        False,
        "Has JAX find coordinator, num_processes and process_id by itself: under SLURM, Open MPI "
        "and Kubernetes, and on TPU pods.",
    )
    flags.DEFINE_integer(
        "process_timeout",
        processes.TIMEOUT,
        "Seconds without a sign of life after which a process counts as dead, and the others stop.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and trains or evaluates."""
    run(_main, define_flags, argv, program="capjax train|evaluate", doc=__doc__)


def _main() -> None:
    logging.set_verbosity(logging.WARNING)  # JAX and orbax tell much on INFO.
    given = flags.FLAGS
    build.compilation_cache(given.compilation_cache)
    with errors.reported():
        processes.start(
            given.coordinator,
            given.num_processes,
            given.process_id,
            automatic=given.distributed,
            timeout=given.process_timeout,
        )
    with processes.propagate_errors(), errors.reported():
        workdir = given.workdir or default_workdir(
            config_flags.get_config_filename(given["config"])
        )
        if given.mode == "train":
            train(given.config, workdir)
        else:
            metrics = evaluate(
                given.config, workdir, split=given.split, checkpoint=given.checkpoint
            )
            print(metrics_line(metrics))


if __name__ == "__main__":
    main()
