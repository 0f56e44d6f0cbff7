"""Runs each side of a benchmark in a process of its own."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable


def measure(module: str, *arguments: str) -> dict:
    """Runs a benchmark's module with arguments; returns the JSON of its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def alternate(
    module: str, sides: Iterable[str], rounds: int, *arguments: str
) -> dict[str, list[dict]]:
    """The runs of each side, which take turns; progress on stderr."""
    found: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, runs in found.items():
            runs.append(measure(module, "--side", side, *arguments))
            progress(module, *arguments, side, f"{runs[-1]['seconds']:.3f} s a call")
    return found


def progress(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def timed(repeats: int, call: Callable[[], object]) -> tuple[float, float, object]:
    """Returns seconds of the first call, the median of `repeats` more, and the first result."""
    seconds = []
    for number in range(1 + repeats):
        start = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - start)
        if number == 0:
            first = found
    return seconds[0], statistics.median(seconds[1:]), first


def peak_memory_mib() -> float:
    """The peak resident memory of this process in MiB."""
    try:
        # Linux's ru_maxrss includes the peak of the process that started this one.
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) / 2**10 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


def use_cores(count: int) -> int:
    """Restricts this process to some CPU cores, where the system can; returns how many it has."""
    if not hasattr(os, "sched_setaffinity"):
        return count
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    return cores()


def use_two_cores() -> int:
    return use_cores(2)
