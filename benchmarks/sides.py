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


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over runs."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def print_parts(rounds: list[list[dict]], names: Iterable[str], of: str = "") -> None:
    """Prints a row for each part: seconds of both sides, their ratio, our first call, memory."""
    peaks = [statistics.median(pair[side]["peak_memory_mib"] for pair in rounds) for side in (0, 1)]
    for name in names:
        pairs = [[run["figures"][name] for run in pair] for pair in rounds]
        times = [statistics.median(pair[side]["seconds"] for pair in pairs) for side in (0, 1)]
        ratio = statistics.median(peer["seconds"] / ours["seconds"] for peer, ours in pairs)
        first = statistics.median(ours["first"] for _, ours in pairs)
        print(
            f"| {of}{name} | {times[0]:.2f} | {times[1]:.2f} | {ratio:.2f} | {first:.1f} | "
            f"{peaks[0]:.0f} | {peaks[1]:.0f} |",
            flush=True,
        )


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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def use_two_cores() -> int:
    """Restricts this process to two CPU cores, where the system can; returns how many it has."""
    if not hasattr(os, "sched_setaffinity"):
        return 2
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    return len(os.sched_getaffinity(0))
