"""Processes at the same time, with a share of the devices each."""

import io
import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import shares
from experiments.shares import Job, Share, make_shares, run_jobs, split
from experiments.variants import SweepError

SHELL = ("/bin/sh", "-c")
# Minutes, so that a fault is no endless wait.
UNTIL = "i=0; while {0}; do sleep 0.02; i=$((i + 1)); test $i -lt 20000 || exit 1; done"


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 40))
def test_parts_are_even_and_lose_nothing(items, count):
    if count > len(items):
        with pytest.raises(SweepError, match=f"there are {len(items)} GPUs"):
            split(items, count, "GPUs")
        return
    parts = split(items, count, "GPUs")
    assert [item for part in parts for item in part] == items
    assert len(parts) == count
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shares_are_of_what_there_is(monkeypatch):
    assert make_shares(1) == [Share()]
    monkeypatch.setattr(shares, "_devices", lambda: ("cpu", 1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 2, 3}, raising=False)
    assert [share.processors for share in make_shares(2)] == [(2,), (3, 7)]
    monkeypatch.setattr(shares, "_devices", lambda: ("gpu", 3))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [dict(share.environment) for share in make_shares(2)] == [
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"CUDA_VISIBLE_DEVICES": "1,2"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert dict(make_shares(2)[1].environment) == {"CUDA_VISIBLE_DEVICES": "6"}
    with pytest.raises(SweepError, match="there are 2 GPUs"):
        make_shares(3)
    monkeypatch.setattr(shares, "_devices", lambda: ("tpu", 4))
    with pytest.raises(SweepError, match="a tpu's devices cannot be divided"):
        make_shares(2)


class Told:
    """Stands for an Interruption."""

    requested = False


def run(folder, commands, parts, told=None, begin=lambda number: None):
    """The exit statuses by number, in the order in which the jobs ended."""
    ended = {}
    run_jobs(
        [
            Job((*SHELL, command), str(folder / str(n) / "log"))
            for n, command in enumerate(commands)
        ],
        parts,
        interruption=told or Told(),
        begin=begin,
        end=ended.__setitem__,
    )
    return ended


def test_one_after_another_and_all_in_spite_of_failures(tmp_path, capfd):
    begun = []
    ended = run(
        tmp_path, ["echo a; exit 3", "echo b >&2", "kill -9 $$"], [Share()], begin=begun.append
    )
    assert begun == [0, 1, 2]
    assert ended == {0: 3, 1: 0, 2: -9}
    assert [(tmp_path / str(n) / "log").read_text() for n in range(3)] == ["a\n", "b\n", ""]
    assert capfd.readouterr().err == "a\nb\n"


def test_several_at_once_each_on_its_share(tmp_path, capfd):
    cores = sorted(os.sched_getaffinity(0))
    parts = [Share((cores[0],), {"GIVEN": "1"}), Share(tuple(cores), {"GIVEN": "2"})]
    say = f'echo $GIVEN; {sys.executable} -c "import os; print(sorted(os.sched_getaffinity(0)))"'
    # Each waits for the other's file, in vain where they come one after another.
    files = [tmp_path / "left", tmp_path / "right"]
    commands = [
        f"touch {own}; {UNTIL.format(f'test ! -e {other}')}; {say}"
        for own, other in (files, files[::-1])
    ]
    ended = run(tmp_path, commands, parts)
    assert ended == {0: 0, 1: 0}
    said = {(tmp_path / str(n) / "log").read_text() for n in range(2)}
    assert said == {f"1\n{cores[:1]}\n", f"2\n{cores}\n"}
    assert sorted(os.sched_getaffinity(0)) == cores
    assert capfd.readouterr().err == ""


def test_a_signal_goes_to_what_runs_and_nothing_more_begins(tmp_path):
    told = Told()
    begun = []

    def begin(number):
        begun.append(number)
        told.requested = True

    command = f"trap 'exit 75' TERM; {UNTIL.format('true')}"
    ended = run(tmp_path, [command] * 2, [Share()], told, begin)
    assert begun == [0]
    assert ended in ({0: 75}, {0: -15})


_LEAVES = """
import sys, time
from capjax.train.signals import Interrupted, Interruption
from experiments.shares import leave_with_parent
leave_with_parent(sys.argv[1])
try:
    with Interruption():
        print("ready", flush=True)
        while True:
            time.sleep(0.02)
except Interrupted:
    print("left in good order")
    sys.exit(75)
"""

_STARTS = """
import sys
from experiments.shares import Job, Share, run_jobs
class Never:
    requested = False
job = Job((sys.executable, "-c", sys.argv[1], sys.argv[2]), sys.argv[2])
run_jobs([job], [Share()], interruption=Never, begin=print, end=print)
"""


def test_what_a_killed_process_had_started_leaves_by_itself(tmp_path):
    log = tmp_path / "log"

    def wait_for(text):
        for _ in range(20_000):
            if log.exists() and text in log.read_text():
                return
            time.sleep(0.02)
        pytest.fail(f"{text!r} was never said")

    with subprocess.Popen(
        [sys.executable, "-c", _STARTS, _LEAVES, str(log)], stderr=subprocess.DEVNULL
    ) as parent:
        wait_for("ready")
        parent.kill()
    wait_for("left in good order")


@given(st.lists(st.sampled_from([b"ab", b"\r", b"\n", b"c"]), max_size=30), st.integers(1, 5))
def test_a_log_has_what_a_terminal_would_show_last(parts, size):
    text = b"".join(parts)
    log = io.StringIO()
    shares.copy_output([text[i : i + size] for i in range(0, len(text), size)], log)
    drawn = [[t for t in line.split(b"\r") if t] for line in text.split(b"\n")]
    # What no line end follows is a line where there is anything.
    drawn = drawn if drawn[-1] else drawn[:-1]
    assert log.getvalue() == "".join(f"{d[-1].decode() if d else ''}\n" for d in drawn)
