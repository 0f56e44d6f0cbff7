"""The Markdown tables of a sweep."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from capjax.metrics.direction import direction
from experiments.comparison import PERCENT, Row, Score
from experiments.resampling import CONFIDENCE
from experiments.sweep_files import Run, Sweep

_MOST_FIELDS = 6  # More fields become a list below the tables.

Column = tuple[str, Callable[[Row], str]]


def markdown(sweep: Sweep, rows: Sequence[Row], metric: str, resamples: int) -> str:
    """Makes a table of the variants for each evaluation, sorted by `metric`, and one of the runs.

    They show `metric`, METEOR, and the metrics with intervals.
    """
    counts = Counter(run.status for run in sweep.runs)
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    parts = [
        f"# {_escape(sweep.file)}",
        f"{len(sweep.runs)} runs: {states}. {_code(sweep.code)}".strip(),
        f"A variant's values are means over seeds ± their sample deviation, with {CONFIDENCE:.0%}"
        f" intervals over images in brackets ({resamples:,} resamples); the best is in bold. Δ and"
        f" p compare {metric} with the baseline *{_escape(sweep.baseline)}*; p is two-sided, by"
        " paired approximate randomisation over images, not corrected for the number of rows."
        " Brackets and p describe other images for these trained models; ± describes other seeds.",
    ]
    if any(map(_caches_crops, sweep.runs)):
        parts.append(
            "± leaves out the randomness of crops: with encoder.cache_views above 1 all seeds train"
            " on the same cached crops."
        )
    shown = _shown(rows, metric)
    fields = list(rows[0].fields) if rows else []
    are_columns = len(fields) <= _MOST_FIELDS
    for evaluation, decoding in sweep.evaluations.items():
        own = [row for row in rows if row.evaluation == evaluation and row.run is None]
        own.sort(key=lambda row: _rank(row, metric))
        columns = _variant_columns(own, fields if are_columns else [], shown)
        title = _title(evaluation, decoding, own)
        parts += [title, _table([*columns, *_against(metric)], own)]
    if not are_columns:
        parts += ["## What differs", _differences(sweep, rows)]
    single = [row for row in rows if row.run is not None]
    parts += ["## Runs", _table([*_run_columns(shown), *_against(metric)], single)]
    errors = {row.run: row.error for row in single if row.error}
    parts += [f"- {_escape(run)}: {_escape(error)}" for run, error in errors.items()]
    return "\n\n".join(parts) + "\n"


def _caches_crops(run: Run) -> bool:
    return bool(run.config.get("encoder.cache")) and run.config["encoder.cache_views"] > 1


def _rank(row: Row, metric: str) -> float:
    """A sort key: the best first, rows without a value last."""
    return -_good(row, metric) if metric in row.scores else math.inf


def _good(row: Row, metric: str) -> float:
    """A metric's value, negated if less is better."""
    value = row.scores[metric].value
    return -value if direction(metric) == "min" else value


def _title(evaluation: str, decoding: dict[str, Any], rows: Sequence[Row]) -> str:
    about = [f"{name}={_plain(value)}" for name, value in decoding.items()]
    about += [f"{row.images:,} images" for row in rows if row.images][:1]
    return _escape(f"## {evaluation}" + (f" ({', '.join(about)})" if about else ""))


def _variant_columns(
    rows: Sequence[Row], fields: Iterable[str], shown: Iterable[str]
) -> list[Column]:
    columns = [("variant", lambda row: row.variant)]
    columns += [(name, lambda row, name=name: _plain(row.fields[name])) for name in fields]
    columns += [
        ("status", lambda row: row.status),
        ("parameters", lambda row: _number(row.parameters)),
        ("training", lambda row: _duration(row.seconds["train"])),
        ("captions/s", lambda row: _number(row.captions_per_second)),
        ("peak MiB", lambda row: _number(row.peak_memory_mib)),
    ]
    for name in shown:
        best = max((_good(row, name) for row in rows if name in row.scores), default=None)
        columns.append((name, lambda row, name=name, best=best: _score(row, name, best)))
    return columns


def _run_columns(shown: Iterable[str]) -> list[Column]:
    return [
        ("run", lambda row: row.run),
        ("evaluation", lambda row: row.evaluation),
        ("status", lambda row: row.status),
        ("training", lambda row: _duration(row.seconds["train"])),
        *((name, lambda row, name=name: _score(row, name, None)) for name in shown),
    ]


def _against(metric: str) -> list[Column]:
    return [
        (f"Δ {metric}", lambda row: _difference(row.scores.get(metric), metric)),
        ("p", lambda row: _p(row.scores.get(metric))),
    ]


def _shown(rows: Sequence[Row], metric: str) -> list[str]:
    names = (
        name
        for row in rows
        for name, score in row.scores.items()
        if score.low is not None or name in {*PERCENT, metric}
    )
    return list(dict.fromkeys(names))


def _score(row: Row, metric: str, best: float | None) -> str:
    score = row.scores.get(metric)
    if score is None:
        return ""
    form = f".{_digits(metric)}f"
    value = f"{score.value:{form}}"
    value = f"**{value}**" if _good(row, metric) == best else value
    deviation = "" if score.deviation is None else f" ± {score.deviation:{form}}"
    return value + deviation + _brackets(score.low, score.high, form)


def _difference(score: Score | None, metric: str) -> str:
    if score is None or score.difference is None:
        return ""
    form = f"+.{_digits(metric)}f"
    between = _brackets(score.difference_low, score.difference_high, form)
    return f"{score.difference:{form}}{between}"


def _brackets(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None else f" [{low:{form}}, {high:{form}}]"


def _p(score: Score | None) -> str:
    if score is None or score.p is None:
        return ""
    return "<0.001" if score.p < 0.001 else f"{score.p:.3f}"


def _differences(sweep: Sweep, rows: Sequence[Row]) -> str:
    """Lists the baseline's fields, and those in which other variants differ."""
    fields = {row.variant: row.fields for row in rows if row.run is None}
    baseline = fields.get(sweep.baseline, {})
    lines = []
    for variant, own in fields.items():
        known = [
            f"{name}={_plain(value)}"
            for name, value in own.items()
            if value is not None and (variant == sweep.baseline or value != baseline.get(name))
        ]
        lines.append(f"- {_escape(variant)}: {_escape(', '.join(known))}")
    return "\n".join(lines)


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Makes a Markdown table without its empty columns."""
    filled = [(name, [_escape(say(row)) for row in rows]) for name, say in columns]
    filled = [(name, cells) for name, cells in filled if any(cells)]
    lines = [[name for name, _ in filled], ["---"] * len(filled)]
    lines += zip(*(cells for _, cells in filled), strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _digits(metric: str) -> int:
    return 1 if metric in PERCENT else 3


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"({', '.join(map(str, value))})"
    return "" if value is None else str(value)


def _code(code: Any) -> str:
    if isinstance(code, dict):
        code = ", ".join(f"{name} {value}" for name, value in code.items())
    return f"Code: {_escape(str(code))}." if code else ""


def _escape(text: str) -> str:
    """Makes a text fit in a cell: on one line, with escaped bars."""
    return " ".join(text.split()).replace("|", "\\|")
