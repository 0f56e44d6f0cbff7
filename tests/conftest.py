"""Fixtures that several folders share."""

import hypothesis
import pytest

# The same examples in every run, however slow the machine; nothing is left on disk.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", name="home")
def make_home(tmp_path_factory):
    """Where the command lines keep data and compiled programs."""
    return tmp_path_factory.mktemp("home")
