"""Trains a captioner, or evaluates one.

    python -m capjax.main --config configs/shapes_transformer.py
    python -m capjax.main --config configs/shapes_transformer.py --mode evaluate --split test

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

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from capjax.cli.flags import fail, parse_flags
from capjax.config import build
from capjax.config.errors import ConfigError
from capjax.data.images import ImageError
from capjax.files.errors import DataError
from capjax.parallel import processes
from capjax.pretrained.weights import WeightsError
from capjax.run.evaluate import evaluate, metrics_line
from capjax.run.train import train
from capjax.run.workdir import WorkdirError, default_workdir
from capjax.train.finite import NonFiniteError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, such as configs/shapes_transformer.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/<config name>.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_SPLIT = flags.DEFINE_string("split", "validation", "Split that --mode evaluate scores.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "Checkpoint that --mode evaluate scores: best, latest or a step."
)
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    build.COMPILATION_CACHE,
    "Where JAX keeps compiled programs for the next start; empty keeps none.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "For a run of several processes: host:port of the first, which opens the port there.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Has JAX find coordinator, num_processes and process_id by itself: under SLURM, Open MPI and "
    "Kubernetes, and on TPU pods.",
)
_PROCESS_TIMEOUT = flags.DEFINE_integer(
    "process_timeout",
    processes.TIMEOUT,
    "Seconds without a sign of life after which a process counts as dead, and the others stop.",
)
flags.mark_flag_as_required("config")

# What a run can't go on with, each said in one line.
ERRORS = (
    ConfigError,
    DataError,
    ImageError,
    NonFiniteError,
    WeightsError,
    WorkdirError,
    processes.ProcessesError,
)


def main(argv: list[str]) -> None:
    """Reads the flags and runs the mode."""
    del argv  # Flags alone, says `parse_flags`.
    logging.set_verbosity(logging.WARNING)  # JAX and orbax tell much on INFO.
    build.compilation_cache(_CACHE.value)
    try:
        processes.start(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            automatic=_DISTRIBUTED.value,
            timeout=_PROCESS_TIMEOUT.value,
        )
    except processes.ProcessesError as error:
        fail(str(error))
    with processes.together():
        _run()


def _run() -> None:
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = _WORKDIR.value or default_workdir(file)
    try:
        if _MODE.value == "train":
            train(_CONFIG.value, workdir)
        else:
            metrics = evaluate(
                _CONFIG.value, workdir, split=_SPLIT.value, checkpoint=_CHECKPOINT.value
            )
            print(metrics_line(metrics))
    except ERRORS as error:
        sys.exit(f"error: {error}")  # A text: an error of one process ends all, see `processes`.


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
