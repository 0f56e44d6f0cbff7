"""What was asked to end does so, even where Python's handlers don't run."""

import signal
import time

import pytest

from capjax.parallel.deadline import deadline
from tests.helpers.command_line import python

TRAINING = """
import os, signal, threading
from capjax.parallel import deadline
from capjax.train.signals import Interruption
deadline.SECONDS = 0.3
interruption = Interruption()
interruption._deadline = deadline.deadline(interruption._end, 0.3)
with interruption:
    interruption.poll()
    interruption.saves = {saves}
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    import ctypes
    pause = ctypes.CDLL(None).usleep
    for _ in range(20):
        pause(100_000) if {saves} else pause(900_000)
"""


def test_a_signal_in_a_long_call_is_answered_in_time():
    begun = time.monotonic()
    done = python("-c", TRAINING.format(saves=False))
    assert done.returncode == 75, done.stderr
    assert time.monotonic() - begun < 10
    assert "before there was anything to save" in done.stderr


def test_what_is_to_be_saved_takes_its_time():
    assert python("-c", TRAINING.format(saves=True)).returncode == 0


def test_a_body_that_ends_in_time_is_left_alone():
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with deadline(calls.append, 0.1):
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert calls == []
        with deadline(calls.append, 0.05):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert calls == [signal.SIGTERM]
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("late", [0, 0.5])
def test_an_error_of_the_body_passes(late):
    with pytest.raises(KeyError), deadline(lambda _: None, late):
        raise KeyError("x")
