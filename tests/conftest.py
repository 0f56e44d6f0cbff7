"""Fixtures that several folders share, and how property tests draw."""

import os
import signal
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import settings

from tests.helpers.command_line import SIZES
from tests.helpers.small_run import write_small_run

# Half of the suite's time would go into making fast code of what runs once; XLA reads this when the
# first array is made, and processes that tests start have it from here.
_QUICK = "--xla_backend_optimization_level=0"
if _QUICK.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()

# The same examples in every run, and none kept on disk; a paused process is no failure.
settings.register_profile("capjax", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("capjax")

# Where tests run in the background, a shell has them ignore Ctrl-C, and their processes, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_configure():
    """Orbax closes its event loops before TensorStore, where it fails, has answered on them.

    That answer comes in whatever test is running by then, and is none of its faults.
    """
    report = sys.unraisablehook

    def report_others(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = report_others


def pytest_collection_modifyitems(items):
    """Files of whole runs, which are few and long, come first: no worker is left alone with one."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """What one file has compiled is of no use to another, and all of it would be gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", name="small_run")
def make_small_run(tmp_path_factory):
    """The workdir of a run that was not trained; whoever damages it mends it."""
    directory = tmp_path_factory.mktemp("run")
    write_small_run(str(directory))
    return directory


@pytest.fixture(scope="session", name="home")
def make_home(tmp_path_factory):
    """Where the command lines keep data and compiled programs; its `shapes` has a few images."""
    from capjax.data.shapes import builder  # Few files need TensorFlow, which takes seconds.

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SPLIT_SIZES", SIZES)
        builder.prepare(home / "data", SIZES)
    return home
