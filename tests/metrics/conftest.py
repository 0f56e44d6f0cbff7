"""METEOR's process may start here, where there is a Java."""

import os

import pytest

from capjax.metrics import meteor


@pytest.fixture(scope="module", autouse=True)
def with_java(without_java):
    """The PATH as it was."""
    meteor.why_not.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])
        yield
    meteor.why_not.cache_clear()
