"""Calls the command lines in processes of their own, away from the user's caches."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

SIZES = {"train": 200, "validation": 10, "test": 8, "heldout": 8}
"""Images a split of `shapes`, as command lines find it."""


def environment(home):
    return {**os.environ, "TFDS_DATA_DIR": str(home / "data"), "HOME": str(home)}


def call(home, *arguments, check=True, **more):
    """The finished process of a module and its arguments.

    It is forked from one that has imported nearly all, unless what is `more` than the usual
    environment is read when JAX is imported.
    """
    cold = any(name.startswith("JAX_") for name in more)
    done = (_start if cold else _fork)(home, list(map(str, arguments)), more)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def _start(home, arguments, more):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env={**environment(home), **more},
        capture_output=True,
        text=True,
        check=False,
    )


def _fork(home, arguments, more):
    with tempfile.TemporaryDirectory() as folder:
        files = [os.devnull, f"{folder}/stdout", f"{folder}/stderr"]
        for file in files[1:]:
            Path(file).touch()
        asked = {"arguments": arguments, "files": files}
        asked["environment"] = {**environment(home), **more}
        server = _server(home)
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        stdout, stderr = (Path(file).read_text() for file in files[1:])
    return subprocess.CompletedProcess(arguments, status, stdout, stderr)


@functools.cache
def _server(home):
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.warm"],
        cwd=REPOSITORY,
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def end():
        server.stdin.close()
        server.wait()
        server.stdout.close()

    atexit.register(end)
    return server


def main(home, *arguments, config="configs/shapes_transformer.py", **options):
    return call(home, "capjax.main", "--config", config, *arguments, **options)
