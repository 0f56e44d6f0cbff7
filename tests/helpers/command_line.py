"""Calls the command lines in processes of their own, away from the user's caches."""

import atexit
import functools
import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.warm import Warm

REPOSITORY = Path(__file__).parents[2]

SIZES = {"train": 200, "validation": 10, "test": 8, "heldout": 8}
"""Images a split of `shapes`, as command lines find it."""

# Not the command lines themselves, which define flags.
_IMPORTED = ("tensorflow", "capjax.run.train", "capjax.run.evaluate", "capjax.data.tfds_source")
_IMPORTED += ("capjax.cli.caption_images", "experiments.sweep_plan")


def environment(home):
    return {**os.environ, "TFDS_DATA_DIR": str(home / "data"), "HOME": str(home)}


def call(home, *arguments, check=True, **more):
    """The finished process of a module and its arguments.

    It is forked from one that has imported nearly all, unless what is `more` than the usual
    environment is read when JAX is imported.
    """
    arguments, env = list(map(str, arguments)), {**environment(home), **more}
    if any(name.startswith("JAX_") for name in more):
        done = python("-m", *arguments, **env)
    else:
        with begin(home, *arguments, **more) as given:
            done = given.finish()
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def begin(home, *arguments, **more):
    """The same that has just begun; a context, at whose end it is gone."""
    env = {**environment(home), **more}
    return _warm(home).begin(list(map(str, arguments)), REPOSITORY, environment=env)


def python(*arguments, cwd=REPOSITORY, **more):
    """The finished process of a fresh interpreter, which fails where it hangs."""
    command, env = [sys.executable, *map(str, arguments)], {**os.environ, **more}
    pipes = {"capture_output": True, "text": True, "check": False}
    return subprocess.run(command, cwd=cwd, env=env, timeout=1200, **pipes)


@functools.cache
def _warm(home):
    warm = Warm(_IMPORTED, environment(home), REPOSITORY)
    atexit.register(warm.close)
    return warm


def main(home, *arguments, config="configs/shapes_transformer.py", **options):
    return call(home, "capjax.main", "--config", config, *arguments, **options)
