"""Signals end a run in good order, and only while it asks for them."""

import signal
import threading

import pytest

from capjax.train.signals import Interrupted, Interruption
from tests.helpers.command_line import python


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_loop_a_signal_leaves_at_once_and_then_is_asked_for(number, capfd):
    before = [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)]
    with Interruption() as interruption:
        with pytest.raises(Interrupted):
            signal.raise_signal(number)
        assert interruption.requested
    with Interruption() as interruption:
        interruption.poll()
        seen = []
        with pytest.raises(Interrupted):  # noqa: PT012
            for item in interruption.watch(range(5)):
                seen.append(item)
                if item == 2:
                    signal.raise_signal(number)
        assert seen == [0, 1, 2]
    assert [signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)] == before
    assert capfd.readouterr().err.count(f"{number.name}: stopping; once more ends at once") == 2


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process(second):
    code = (
        "import signal, time\n"
        "from capjax.train.signals import Interruption\n"
        "with Interruption() as interruption:\n"
        "    interruption.poll()\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        f"    signal.raise_signal(signal.{second.name})\n"
        "    time.sleep(60)\n"
    )
    assert python("-c", code).returncode == -second


def test_one_around_another_learns_of_a_signal_too(capfd):
    with Interruption() as around:
        with Interruption() as within:
            within.poll()
            signal.raise_signal(signal.SIGTERM)
        assert within.requested
        with pytest.raises(Interrupted):
            list(around.watch([1]))
    assert "stopping" in capfd.readouterr().err


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert not interruption.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_catches_none():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def enter():
        with Interruption() as interruption:
            found.append((interruption.requested, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(False, before)]
