"""A run that several files of this folder ask."""

import pytest

import capjax
from tests.helpers.small_run import write_untrained_run


@pytest.fixture(scope="module", name="run")
def make_run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    write_untrained_run(directory)
    return capjax.load(directory)
