"""Signals that end the process at once, by a handler where process 1 needs one."""

import pytest

from tests.helpers.command_line import python

SCRIPT = """
import os, signal
from capjax.parallel.signals import end_at_signals

signal.signal(signal.SIGINT, signal.SIG_IGN)
end_at_signals()
for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(os.getpid(), number)
print("goes on")
"""

# `first` is whether the process takes itself for the first of a container.
TWICE = """
import os, signal
from capjax.{module} import {name}

if {first}:
    os.getpid, own = lambda: 1, os.getpid()
else:
    own = os.getpid()
with {name}():
    for _ in range(2):
        try:
            os.kill(own, signal.SIGTERM)
        except BaseException as error:
            assert type(error).__name__ == "Interrupted", error
print("goes on")
"""


def test_a_signal_ends_the_process_unless_it_is_ignored():
    done = python("-c", SCRIPT)
    assert (done.returncode, done.stdout) == (128 + 15, "")


@pytest.mark.parametrize(("first", "status"), [(True, 128 + 15), (False, -15)])
@pytest.mark.parametrize(
    ("module", "name"), [("train.signals", "Interruption"), ("cli.caption_images", "_Stop")]
)
def test_a_second_signal_ends_the_process(module, name, first, status):
    done = python("-c", TWICE.format(module=module, name=name, first=first))
    assert (done.returncode, done.stdout) == (status, "")
