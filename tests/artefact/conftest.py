"""An artefact that the files of this folder share."""

import shutil

import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.cli.export import main
from tests.helpers.small_run import write_untrained_run

FLAGS = ("--num_captions", "2", "--attention")


@pytest.fixture(scope="session", name="shared")
def write_shared(tmp_path_factory):
    """(a run's folder, that of its artefact)."""
    run, folder = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("artefact") / "new"
    write_untrained_run(run)
    main(["--format", "artefact", "--workdir", str(run), "--to", str(folder), *FLAGS])
    return run, folder


@pytest.fixture(scope="session", name="folder")
def shared_folder(shared):
    return shared[1]


@pytest.fixture(scope="session", name="run")
def load_run(shared):
    return capjax.load(shared[0])


@pytest.fixture(name="copied")
def copy_folder(folder, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.fixture(scope="session", name="pictures")
def draw_pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20 + i, 30 - i, 3), np.uint8)) for i in range(5)]
