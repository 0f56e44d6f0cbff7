"""A signal that finds nothing to answer ends the process by a handler, as process 1 needs it."""

from tests.helpers.command_line import python

SCRIPT = """
import os, signal
from capjax.serve.signals import end_at_signals

signal.signal(signal.SIGINT, signal.SIG_IGN)
end_at_signals()
for number in (signal.SIGINT, signal.SIGTERM):
    os.kill(os.getpid(), number)
print("goes on")
"""


def test_a_signal_ends_the_process_unless_it_is_ignored():
    done = python("-c", SCRIPT)
    assert (done.returncode, done.stdout) == (128 + 15, "")
