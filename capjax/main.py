"""Trains a captioner, or evaluates one.

    capjax train --config shapes_transformer
    capjax evaluate runs/shapes_transformer --split test

Any field of the config can be set: --config.decoder.num_layers=4. The run's folder is --workdir, by
default runs/<name of the config and its argument>. The same command continues an interrupted run. A
run's folder alone, as in the second command, stands for --workdir and for the config in it.
Several --workdir are evaluated as one, an ensemble.
Several processes train one run with --coordinator, --num_processes and --process_id, or with
--distributed.

Exit statuses:
    0   done
    1   an error, named on stderr
    2   wrong command line: a flag, a field of the config, or the config file
    75  stopped by a signal after saving; run the same command again
"""

import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from capjax.cli import errors
from capjax.cli.flags import define_config, given_config, run, with_run
from capjax.cli.process import run_command, starting
from capjax.parallel.defaults import COMPILATION_CACHE, TIMEOUT


def define_flags() -> None:
    """Defines the flags."""
    define_config()
    flags.DEFINE_multi_string(
        "workdir",
        None,
        "Folder of the run; by default runs/<config name>. Given again, the runs are evaluated as "
        "an ensemble, with the results in the first.",
    )
    flags.DEFINE_enum(
        "average",
        "probabilities",
        ["probabilities", "log_probabilities"],
        "What an ensemble averages of each token.",
    )
    flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train or evaluate.")
    flags.DEFINE_string("split", "validation", "Split to evaluate.")
    flags.DEFINE_string("checkpoint", "best", "Checkpoint to evaluate: best, latest or a step.")
    flags.DEFINE_string(
        "compilation_cache",
        COMPILATION_CACHE,
        "Folder where JAX keeps compiled programs between starts; empty keeps none.",
    )
    flags.DEFINE_integer(
        "profile",
        0,
        "Steps of the training that jax.profiler traces, after the first ten, into the workdir's "
        "profile/.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "For several processes: host:port of the first process, which opens the port.",
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
    flags.DEFINE_bool(
        "distributed",
        False,
        "Let JAX detect coordinator, num_processes and process_id: under SLURM, Open MPI and "
        "Kubernetes, and on TPU pods.",
    )
    flags.DEFINE_integer(
        "process_timeout",
        TIMEOUT,
        "Seconds without a heartbeat after which a process counts as dead and the others stop.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and trains or evaluates."""
    given = list(sys.argv[1:] if argv is None else argv)
    given = with_run(given, switches=("--distributed", "--nodistributed"))
    run(_main, define_flags, given, program="capjax train|evaluate", doc=__doc__)


def _main() -> None:
    # Imported here, so that --help is answered at once.
    with starting():
        from capjax.parallel import devices, processes
        from capjax.run.evaluate import evaluate, metrics_line
        from capjax.run.train import train
        from capjax.run.workdir import default_workdir

    logging.set_verbosity(logging.WARNING)  # JAX and orbax log much at INFO.
    given = flags.FLAGS
    devices.compilation_cache(given.compilation_cache)
    with errors.reported():
        processes.start(
            given.coordinator,
            given.num_processes,
            given.process_id,
            automatic=given.distributed,
            timeout=given.process_timeout,
        )
    with processes.propagate_errors(), errors.reported():
        workdir, *others = given.workdir or [
            default_workdir(config_flags.get_config_filename(given["config"]))
        ]
        if given.mode == "train":
            if others:
                errors.fail(f"--workdir {others[0]}: a run is trained in one workdir", errors.USAGE)
            train(given_config(), workdir, profile=given.profile)
        else:
            metrics = evaluate(
                given_config(),
                workdir,
                split=given.split,
                checkpoint=given.checkpoint,
                others=others,
                average=given.average,
            )
            print(metrics_line(metrics))


if __name__ == "__main__":
    run_command(main)
