"""Gives commands in forks of a process that has imported the libraries: `python -m ...`, sooner.

Nothing of this repository is imported before a fork, and no device is touched.
"""

import contextlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

# What most commands import; TensorFlow is left to those that need it.
_LIBRARIES = (
    "absl.app",
    "einops",
    "flax.linen",
    "h5py",
    "jax",
    "matplotlib.figure",
    "ml_collections.config_flags",
    "optax",
    "orbax.checkpoint",
    "PIL.Image",
    "tensorboardX",
    "tokenizers",
    "tqdm",
)


class Warm:
    """The process; a context, at whose end it is gone."""

    def __init__(self, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def give(
        self, arguments: list[str], folder: Path, stdin: str = ""
    ) -> subprocess.CompletedProcess:
        """`python -m ARGUMENTS` in a folder."""
        with tempfile.TemporaryDirectory() as streams:
            Path(streams, "0").write_text(stdin)
            self._process.stdin.write(json.dumps([arguments, str(folder), streams]) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            said = [Path(streams, number).read_text(errors="replace") for number in "12"]
        return subprocess.CompletedProcess(arguments, status, *said)

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _serve() -> None:
    for name in _LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        arguments, folder, streams = json.loads(line)
        if not (child := os.fork()):
            _run(arguments, folder, streams)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str], folder: str, streams: str) -> None:
    for number in range(3):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(os.path.join(streams, str(number)), flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 as long as the process
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = arguments
    status = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        status = error.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    # The end of an interpreter, which joins threads and calls what waits for it.
    with contextlib.suppress(Exception):
        import atexit

        atexit._run_exitfuncs()
    os._exit(status or 0)


if __name__ == "__main__":
    _serve()
