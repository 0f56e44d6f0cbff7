"""Fixtures that several folders share, and how property tests draw."""

import atexit
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile

import jax
import jaxlib
import pytest
from hypothesis import settings

from capjax.parallel import programs
from tests.helpers import effort
from tests.helpers.command_line import SIZES
from tests.helpers.small_run import write_small_run

# Most of the time would go into making fast code of what runs once; XLA reads these when the
# first array is made, and processes that tests start have them from here.
_QUICK = ["--xla_backend_optimization_level=0"]
if jaxlib.__version__.startswith("0.10."):  # A flag that it does not know ends the process.
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")
    # Else each program is compiled in up to 32 parts, which takes longer on two cores.
    _QUICK.append("--xla_cpu_parallel_codegen_split_count=1")
_FLAGS = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [*_FLAGS.split(), *(flag for flag in _QUICK if flag.split("=")[0] not in _FLAGS)]
)

# All workers of a session, and the processes that tests start, compile a program once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="capjax-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
PROGRAMS = os.environ["JAX_COMPILATION_CACHE_DIR"]
jax.config.update("jax_compilation_cache_dir", PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
# A traced program would be found again where a test has put something else in the model's place.
programs.kept_in = str

# Nobody reads which line of a test each operation comes from.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
jax.config.update("jax_traceback_in_locations_limit", 0)


# Where tests run in the background, a shell has them ignore Ctrl-C, and their processes, too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_LONG = ("run", "cli", "compatibility", "parallel", "train", "tests")
_LONG += ("test_family_captions.py", "test_kill_campaign.py", "test_sweep.py", "test_tour.py")
_LONG += ("test_keras_files.py", "test_keras_parity.py")
"""Folders and files whose tests come first."""

_LATER = "test_commands.py"
"""Of these the last: runs of tests/compatibility have compiled its programs by then."""


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run tests marked slow, too")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if config.option.slow or "slow" in config.option.markexpr:
        os.environ[effort.VARIABLE] = "1"
    # The same examples in every run, and none kept on disk; a paused process is no failure.
    drawn = {"derandomize": True, "deadline": None, "database": None}
    settings.register_profile("capjax", **drawn, max_examples=effort.examples(60))
    settings.load_profile("capjax")
    _expect_late_answers()


def _expect_late_answers():
    """Orbax closes its event loops before TensorStore, where it fails, has answered on them.

    That answer comes in whatever test is running by then, and is none of its faults.
    """
    report = sys.unraisablehook

    def report_others(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    sys.unraisablehook = report_others


def pytest_collection_modifyitems(config, items):
    """Leaves out what is slow, unless it is asked for; whoever is slow says why."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    for item in slow:
        if not item.get_closest_marker("slow").kwargs.get("reason"):
            raise pytest.UsageError(f"{item.nodeid} is marked slow, but no reason is given")
    if not effort.slow_too():
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    # Files of whole runs, which are few and long, come first: no worker is left alone with one.
    items.sort(key=lambda item: (not _names(item) & {*_LONG}, _LATER in _names(item)))


def _names(item):
    return {item.path.parent.name, item.path.name}


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Collects garbage seldom: what is imported by now stays, and tracing makes much more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def without_java(tmp_path_factory):
    """METEOR's process takes seconds: it is for the tests of `metrics` to start it."""
    folder = tmp_path_factory.mktemp("no_java")
    (folder / "java").write_text("#!/bin/sh\nexit 1\n")
    (folder / "java").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(autouse=True)
def log_is_shown_by_commands_alone():
    """`caplog` has the library's log, whatever command an earlier test has called."""
    logger = logging.getLogger("capjax")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.INFO)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """What one file has compiled is of no use to another, and all of it would be gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", name="small_run")
def make_small_run(tmp_path_factory):
    """The workdir of a run that was not trained; whoever damages it mends it."""
    directory = tmp_path_factory.mktemp("run")
    write_small_run(directory)
    return directory


@pytest.fixture(scope="session", name="home")
def make_home(tmp_path_factory):
    """Where the command lines keep data and compiled programs; its `shapes` has a few images."""
    from capjax.data.shapes import builder  # Few files need TensorFlow, which takes seconds.

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "SPLIT_SIZES", SIZES)
        builder.prepare(home / "data", SIZES)
    (home / ".cache" / "capjax").mkdir(parents=True)
    (home / ".cache" / "capjax" / "xla").symlink_to(PROGRAMS)
    return home
