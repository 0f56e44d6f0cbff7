"""Calls the command lines in processes of their own, away from the user's caches."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

SIZES = {"train": 400, "validation": 100, "test": 40, "heldout": 40}
"""Images a split of `shapes`, as command lines find it."""


def environment(home):
    return {**os.environ, "TFDS_DATA_DIR": str(home / "data"), "HOME": str(home)}


def call(home, *arguments, check=True, **more):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env={**environment(home), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def main(home, *arguments, config="configs/shapes_transformer.py", **options):
    return call(home, "capjax.main", "--config", config, *arguments, **options)
