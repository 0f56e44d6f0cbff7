"""The table of a sweep: results.csv, results.md and results.json in its folder.

    python -m experiments.results runs/variants --metric BLEU-4

writes the three from the finished runs, and prints the Markdown. A variant's values are means over
its seeds. `experiments.resampling` defines the intervals and p values.
"""

import argparse
import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from typing import Any

from capjax.cli.errors import ERRORS, fail
from capjax.cli.log import show_log
from capjax.files.atomic import write_atomic, write_json
from experiments.comparison import RESAMPLES, SEED, Row, Score, compare, differing_fields
from experiments.resampling import CONFIDENCE
from experiments.results_markdown import markdown
from experiments.sweep_files import ResultsError, Sweep, read_sweep


def write_results(directory: str, *, metric: str | None = None, resamples: int = RESAMPLES) -> str:
    """Writes results.csv, results.md and results.json.

    Args:
      directory: the folder of the sweep.
      metric: the metric that sorts the Markdown's rows and has its p values; default CIDEr-D.
      resamples: number of resamples for intervals and p values.

    Returns:
      The Markdown.

    Raises:
      ResultsError: there is no sweep, a file is damaged, or no evaluation has the metric.
    """
    sweep = read_sweep(directory)
    rows = compare(sweep, resamples)
    metrics = list(dict.fromkeys(name for row in rows for name in row.scores))
    if metric is None:
        metric = "CIDEr-D" if "CIDEr-D" in metrics or not metrics else metrics[0]
    elif metric not in metrics:
        there = ", ".join(metrics) or "none, since no run is evaluated yet"
        raise ResultsError(f"no evaluation has the metric {metric!r}; there are {there}")
    text = markdown(sweep, rows, metric, resamples)
    path = os.path.join(directory, "results")
    write_json(f"{path}.json", as_json(sweep, rows, resamples))
    write_atomic(f"{path}.csv", as_csv(rows, metrics).encode())
    write_atomic(f"{path}.md", text.encode())
    return text


def as_json(sweep: Sweep, rows: Sequence[Row], resamples: int) -> dict[str, Any]:
    """The content of results.json: all rows, and the settings and versions that made them."""
    evaluated = [found for run in sweep.runs for found in run.evaluations.values()]
    codes = {str(found.record.get("code")): found.record.get("code") for found in evaluated}
    return {
        "file": sweep.file,
        "code": sweep.code,
        "evaluated_by": list(codes.values()),
        "baseline": sweep.baseline,
        "evaluations": sweep.evaluations,
        "fields": differing_fields(sweep),
        "intervals": {"confidence": CONFIDENCE, "resamples": resamples, "seed": SEED},
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def as_csv(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """The content of results.csv: a line for each row; a missing number is empty."""
    lines = []
    for row in rows:
        line = dataclasses.asdict(row)
        seconds, fields, scores = (line.pop(name) for name in ("seconds", "fields", "scores"))
        line["seeds"] = " ".join(map(str, row.seeds))
        line |= {f"{what}_seconds": value for what, value in seconds.items()}
        line |= {f"config.{field}": value for field, value in fields.items()}
        for metric in metrics:
            score = scores.get(metric, {})
            for part in dataclasses.fields(Score):
                name = metric if part.name == "value" else f"{metric}_{part.name}"
                line[name] = score.get(part.name)
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0] if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def main() -> None:
    """Writes the files and prints the Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", help="folder of the sweep")
    parser.add_argument("--metric", help="metric that sorts the printed rows, such as BLEU-4")
    parser.add_argument("--resamples", type=_count, default=RESAMPLES, help="number of resamples")
    arguments = parser.parse_args()
    show_log()
    try:
        text = write_results(
            arguments.directory, metric=arguments.metric, resamples=arguments.resamples
        )
    except ERRORS as error:
        fail(str(error))
    print(text, end="")


def _count(text: str) -> int:
    if (count := int(text)) < 100:
        raise argparse.ArgumentTypeError(f"{count} resamples are too few: give at least 100")
    return count


if __name__ == "__main__":
    main()
