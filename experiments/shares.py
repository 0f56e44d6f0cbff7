"""Processes at the same time, each with a share of the devices."""

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TypeVar

from capjax.train.signals import Interruption
from experiments.variants import SweepError

T = TypeVar("T")

_TICK = 0.05


@dataclasses.dataclass(frozen=True)
class Share:
    """What of the machine one process has.

    Attributes:
      processors: numbers of the CPU cores that it may use; empty for all.
      environment: variables that tell it its accelerators.
    """

    processors: tuple[int, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """A process to run.

    Attributes:
      command: its arguments.
      log: file that what it prints is added to.
    """

    command: Sequence[str]
    log: str


def make_shares(count: int) -> list[Share]:
    """The machine in equal parts: of its GPUs, or without one of its CPU cores; 1 takes it whole.

    Raises:
      SweepError: there are fewer devices than parts, or they can't be parted.
    """
    if count < 1:
        raise SweepError(f"--parallel={count}: 1 is the least")
    if count == 1:
        return [Share()]
    backend, number = _devices()
    if backend == "cpu":
        if not hasattr(os, "sched_getaffinity"):  # macOS has no such shares: all have all.
            return [Share()] * count
        cores = split(sorted(os.sched_getaffinity(0)), count, "CPU cores")
        return [Share(processors=tuple(part)) for part in cores]
    if backend != "gpu":
        raise SweepError(
            f"--parallel={count}: a {backend}'s devices are one process's; give --parallel=1, or "
            "print the --commands for several machines"
        )
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if names == [""]:
        names = list(map(str, range(number)))
    return [
        Share(environment={"CUDA_VISIBLE_DEVICES": ",".join(part)})
        for part in split(names, count, "GPUs")
    ]


def split(items: Sequence[T], count: int, named: str) -> list[Sequence[T]]:
    """Parts whose lengths differ by one at most; raises SweepError where one would be empty."""
    if count > len(items):
        raise SweepError(f"--parallel={count}: there are {len(items)} {named}")
    bounds = [len(items) * part // count for part in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def _devices() -> tuple[str, int]:
    """JAX's backend and its number of devices; from a process that then lets go of them."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SweepError(f"JAX finds no devices: {last}")
    backend, number = done.stdout.split()[-2:]
    return backend, int(number)


def run_jobs(
    jobs: Sequence[Job],
    shares: Sequence[Share],
    *,
    interruption: Interruption,
    begin: Callable[[int], None],
    end: Callable[[int, int], None],
) -> None:
    """Runs the jobs in their order, as many at once as there are shares.

    Once a signal has come, those that run are told by SIGTERM, and no other is begun. They have
    sessions of their own, so that a terminal's Ctrl-C, which goes to all, does not reach them
    twice. Their stdin has nothing in it and ends with this program: see `leave_with_parent`.

    Args:
      jobs: what to run.
      shares: of one alone, the job's output is shown on stderr, too.
      interruption: entered and polled.
      begin: called with a job's number before it is started.
      end: called with its number and exit status after it has ended.
    """
    waiting, free = deque(range(len(jobs))), list(shares)
    running: dict[int, tuple[subprocess.Popen, threading.Thread, Share]] = {}
    told = False
    while waiting or running:
        if interruption.requested:
            waiting.clear()
            if not told:
                for process, _, _ in running.values():
                    process.terminate()
                told = True
        elif waiting and free:
            number, share = waiting.popleft(), free.pop()
            begin(number)
            running[number] = *_start(jobs[number], share, show=len(shares) == 1), share
            continue
        for number, (process, reader, share) in list(running.items()):
            if process.poll() is not None:
                reader.join()
                process.stdin.close()
                del running[number]
                free.append(share)
                end(number, process.returncode)
        time.sleep(_TICK)


def _start(job: Job, share: Share, *, show: bool) -> tuple[subprocess.Popen, threading.Thread]:
    os.makedirs(os.path.dirname(job.log), exist_ok=True)
    log = open(job.log, "a", encoding="utf-8")  # noqa: SIM115 closed by the reader
    with _on(share.processors):
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # What it prints comes as it is printed, and in order.
            env={**os.environ, "PYTHONUNBUFFERED": "1", **share.environment},
            start_new_session=True,
        )
    reader = threading.Thread(target=_read, args=(process.stdout, log, show), daemon=True)
    reader.start()
    return process, reader


def leave_with_parent(log: str) -> None:
    """Has this process leave as by SIGTERM when its stdin ends, as one of `run_jobs` it is.

    So it does not go on alone where the program that started it was killed and could tell it
    nothing. What it says from then on goes to its log, since nobody reads it.
    """

    def wait() -> None:
        while os.read(0, 1024):
            pass
        with open(log, "ab") as file:
            for said in (1, 2):
                os.dup2(file.fileno(), said)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _on(processors: tuple[int, ...]) -> Iterator[None]:
    """Has this thread, and thus what it starts, on some CPU cores alone."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _read(pipe: IO[bytes], log: IO[str], show: bool) -> None:
    def parts() -> Iterator[bytes]:
        while part := pipe.read1():
            if show:
                sys.stderr.buffer.write(part)
                sys.stderr.buffer.flush()
            yield part

    with pipe, log:
        copy_output(parts(), log)


def copy_output(parts: Iterable[bytes], log: IO[str]) -> None:
    """Copies what a process prints to a log; of a progress bar only what was drawn last."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        # While a bar is drawn over and over, its line does not end: the last is kept.
        rest = rest[rest.rstrip(b"\r").rfind(b"\r") + 1 :]
        for line in lines:
            print(_last_drawn(line), file=log, flush=True)
    if line := _last_drawn(rest):
        print(line, file=log, flush=True)


def _last_drawn(line: bytes) -> str:
    drawn = [text for text in line.split(b"\r") if text.strip()]
    return drawn[-1].decode("utf-8", "replace") if drawn else ""
