"""METEOR's process may start here, where there is a Java."""

import os

import pytest

from capjax.metrics import coco


@pytest.fixture(scope="module", autouse=True)
def with_java(without_java):
    """The PATH as it was."""
    coco.why_no_meteor.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"].partition(os.pathsep)[2])
        yield
    coco.why_no_meteor.cache_clear()
