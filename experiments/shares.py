"""Runs processes in parallel, each on a share of the devices."""

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

from capjax.cli.pages import large_pages
from capjax.train.signals import Interruption
from experiments.variants import SweepError

T = TypeVar("T")

_TICK = 0.05


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of the machine that one process uses.

    Attributes:
      processors: numbers of its CPU cores; empty for all.
      environment: environment variables that select its accelerators.
    """

    processors: tuple[int, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """A process to run.

    Attributes:
      command: its command line.
      log: file to which its output is appended.
    """

    command: Sequence[str]
    log: str


def make_shares(count: int) -> list[Share]:
    """Divides the GPUs, or else the CPU cores, into equal shares; a single share is unrestricted.

    Raises:
      SweepError: there are fewer devices than shares, or they cannot be divided.
    """
    if count < 1:
        raise SweepError(f"--parallel={count} must be at least 1")
    if count == 1:
        return [Share()]
    backend, number = _devices()
    if backend == "cpu":
        if not hasattr(os, "sched_getaffinity"):  # macOS cannot pin processes to cores.
            return [Share()] * count
        cores = split(sorted(os.sched_getaffinity(0)), count, "CPU cores")
        return [Share(processors=tuple(part)) for part in cores]
    if backend != "gpu":
        raise SweepError(
            f"--parallel={count}: a {backend}'s devices cannot be divided; use --parallel=1, or "
            "--commands for several machines"
        )
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if names == [""]:
        names = list(map(str, range(number)))
    return [
        Share(environment={"CUDA_VISIBLE_DEVICES": ",".join(part)})
        for part in split(names, count, "GPUs")
    ]


def split(items: Sequence[T], count: int, named: str) -> list[Sequence[T]]:
    """Splits into parts whose lengths differ by at most one; raises SweepError if one is empty."""
    if count > len(items):
        raise SweepError(f"--parallel={count}: there are {len(items)} {named}")
    bounds = [len(items) * part // count for part in range(count + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def _devices() -> tuple[str, int]:
    """JAX's backend and number of devices, from a process of its own, which then releases them."""
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
    """Runs jobs in order, as many at once as there are shares.

    After a signal, running jobs get SIGTERM and no other is started. Each job has a session of its
    own, so that a terminal's Ctrl-C does not reach it a second time. Its stdin is empty and ends
    with this program: see `leave_with_parent`.

    Args:
      jobs: the jobs.
      shares: their devices; with a single share, a job's output also goes to stderr.
      interruption: entered, after a call of `poll`.
      begin: called with a job's number before it starts.
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
    with _pinned(share.processors):
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Unbuffered, so that stdout and stderr keep their order.
            env={**os.environ, **large_pages(), "PYTHONUNBUFFERED": "1", **share.environment},
            start_new_session=True,
        )
    reader = threading.Thread(target=_read, args=(process.stdout, log, show), daemon=True)
    reader.start()
    return process, reader


def leave_with_parent(log: str) -> None:
    """Sends SIGTERM to this process, a job of `run_jobs`, when its stdin ends.

    A job thus stops if the program that started it is killed. Its output then goes to the log,
    since nobody reads its pipe.
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
def _pinned(processors: tuple[int, ...]) -> Iterator[None]:
    """Restricts this thread, and the processes that it starts, to some CPU cores."""
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
    """Copies the output of a process to a log; of a progress bar only its last state."""
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        # A progress bar redraws its line without ending it: only the last state is kept.
        rest = rest[rest.rstrip(b"\r").rfind(b"\r") + 1 :]
        for line in lines:
            print(_last_drawn(line), file=log, flush=True)
    if line := _last_drawn(rest):
        print(line, file=log, flush=True)


def _last_drawn(line: bytes) -> str:
    drawn = [text for text in line.split(b"\r") if text.strip()]
    return drawn[-1].decode("utf-8", "replace") if drawn else ""
