"""Fixtures that several folders share."""

import pytest


@pytest.fixture(scope="session", name="home")
def make_home(tmp_path_factory):
    """Where the command lines keep data and compiled programs."""
    return tmp_path_factory.mktemp("home")
