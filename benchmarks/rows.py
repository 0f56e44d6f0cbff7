"""Rows of a benchmark: capjax beside its peer, their ratio, and the fraction of the limit.

A row is JSON with these fields; its figures come of all rounds, in each of which the peer ran first
and capjax after it, in processes of their own:

what     what was measured.
peer     the peer's name.
count    images or captions of a call, and `unit` their name; None where seconds are shown.
rounds   [[peer, capjax], ...], each with "seconds" of a call, "peak_memory_mib", and perhaps
         "first", seconds of the first call.
needs    {"flops", "bytes"} that a call needs, at least one of them, or None.

The fraction of the limit is the time that the needs take at the limits of `benchmarks.limits` over
the measured time. Operations and moving of bytes can overlap, so that a call needs the longer of
the two; the table names it.
"""

import json
import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.sides import measure

HEADER = (
    "| what | capjax | peer | ratio (from to) | of the limit | first call s | peak MiB |\n"
    "|---|---|---|---|---|---|---|"
)
PEER, OURS = 0, 1


def needed_seconds(needs: dict[str, float], limits: dict[str, float]) -> tuple[float, str]:
    """Seconds that a call takes at the limits, and which of its needs takes them."""
    times = {
        "operations": needs.get("flops", 0.0) / (1e9 * limits["gflops"]),
        "bytes": needs.get("bytes", 0.0) / (1e9 * limits["gb_per_s"]),
    }
    longest = max(times, key=lambda name: times[name])
    return times[longest], longest


def fraction(row: dict[str, Any], limits: dict[str, float]) -> str:
    """The fraction of the limit that capjax reaches, and what limits it."""
    if not row["needs"]:
        return "-"
    seconds, longest = needed_seconds(row["needs"], limits)
    return f"{seconds / median(row, OURS, 'seconds'):.2f} {longest}"


def median(row: dict[str, Any], side: int, name: str) -> float:
    return statistics.median(pair[side][name] for pair in row["rounds"])


def ratio(row: dict[str, Any]) -> str:
    """The median of the rounds' ratios, with their least and their largest."""
    each = [peer["seconds"] / ours["seconds"] for peer, ours in row["rounds"]]
    spread = "one round" if len(each) == 1 else f"{min(each):.2f} to {max(each):.2f}"
    return f"{statistics.median(each):.2f} ({spread})"


def figure(row: dict[str, Any], side: int) -> str:
    seconds = median(row, side, "seconds")
    value, unit = (row["count"] / seconds, row["unit"]) if row["count"] else (seconds, "s")
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:.{digits}f} {unit}"


def both(row: dict[str, Any], name: str, digits: int) -> str:
    """ "capjax, peer" of a field; a dash where a side has none."""
    found = [
        f"{median(row, side, name):.{digits}f}" if name in row["rounds"][0][side] else "-"
        for side in (OURS, PEER)
    ]
    return "" if found == ["-", "-"] else ", ".join(found)


def line(row: dict[str, Any], limits: dict[str, float]) -> str:
    """A row as a line of the table."""
    cells = (
        row["what"],
        figure(row, OURS),
        f"{row['peer']} {figure(row, PEER)}",
        ratio(row),
        fraction(row, limits),
        both(row, "first", 1),
        both(row, "peak_memory_mib", 0),
    )
    return f"| {' | '.join(cells)} |"


def limits_line(limits: dict[str, float]) -> str:
    return (
        f"Limits of {limits['cores']} CPU core(s): {limits['gflops']:.0f} GFLOP/s, "
        f"{limits['gb_per_s']:.1f} GB/s; one thread copies {limits['copy_gb_per_s']:.1f} GB/s."
    )


def numbers(run: dict[str, Any]) -> dict[str, float]:
    """A run's figures, without captions and other results."""
    return {name: value for name, value in run.items() if isinstance(value, int | float)}


class Report:
    """Measures the limits, prints rows as they come, and at the end all raw figures as JSON."""

    def __init__(self, *, two_cores: bool = False):
        self.limits = measure("limits", *(["--two_cores"] if two_cores else []))
        self.rows: list[dict[str, Any]] = []
        print(f"{limits_line(self.limits)}\n\n{HEADER}", flush=True)

    def add(
        self,
        what: str,
        peer: str,
        theirs: Iterable[dict],
        ours: Iterable[dict],
        *,
        count: int | None = None,
        unit: str = "",
        needs: dict[str, float] | None = None,
    ) -> None:
        """Adds a row of the runs of both sides, and prints it.

        `needs` are those that capjax's runs have counted, if not given.
        """
        pairs = list(zip(theirs, ours, strict=True))
        needs = needs or pairs[0][OURS].get("needs")
        rounds = [[numbers(run) for run in pair] for pair in pairs]
        row = {"what": what, "peer": peer, "count": count, "unit": unit, "needs": needs}
        self.rows.append({**row, "rounds": rounds})
        print(line(self.rows[-1], self.limits), flush=True)

    def add_parts(self, of: str, peer: str, names: tuple[str, ...], runs: list[list[dict]]) -> None:
        """Adds a row for each part of processes that measured several: "figures" by name."""
        for name in names:
            pairs = [
                [
                    {**run["figures"][name], "peak_memory_mib": run["peak_memory_mib"]}
                    for run in pair
                ]
                for pair in runs
            ]
            self.add(f"{of}{name}", peer, *zip(*pairs, strict=True))

    def close(self) -> None:
        """Prints the limits and all rows as one line of JSON."""
        print(json.dumps({"limits": self.limits, "rows": self.rows}))
