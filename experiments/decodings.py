"""Decoding methods side by side, on the validation split of one run or of an ensemble.

    python -m experiments.decodings RUN [RUN ...] [--to FILE.json] [--only "5 samples*" ...]

Prints a row for each method: BLEU-4 and CIDEr-D on one half of the images (those at even places),
on the other, and on all; words a caption; the share of different words and pairs in the split; the
share of captions with a word of four letters or more twice; of several captions an image the best
CIDEr-D among them (the oracle), the share of different words and pairs among an image's, and
mBLEU-4; captions/s after the first batch, of the decoding of cached features. With several runs
there are rows of each, of their ensemble and of its consensus. Last it prints for each kind of
method which row is best on the even half, and the row's figures on the odd half and on all.

FILE keeps each row as soon as it is known. The same command again, also after it was killed, takes
the rows that FILE has, so the table can be made in pieces: --only takes patterns of rows' names,
and --list prints the names.
"""

import argparse
import dataclasses
import fnmatch
import functools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import capjax
from capjax.config import questions
from capjax.data.sections import check_images, open_captions, open_source
from capjax.evaluate.captioning import CaptionBatches
from capjax.evaluate.results import code_version
from capjax.files.atomic import write_json
from capjax.models.ensemble import Average, join_variables
from capjax.parallel import devices
from capjax.pretrained.variables import fingerprint
from capjax.run.features import from_features
from capjax.run.load import Run
from capjax.run.split import Split, make_split
from experiments.diversity import HALVES, figures

ENDINGS = ("a", "an", "the", "of", "with", "in")
SAMPLED: dict[str, dict[str, Any]] = {
    "1.0": {"temperature": 1.0},
    "0.5": {"temperature": 0.5},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "min-p 0.2": {"temperature": 1.0, "min_p": 0.2},
    "typical 0.9": {"temperature": 1.0, "typical_p": 0.9},
}
METHODS: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    **{f"beam {k}": {"num_beams": k} for k in (2, 3, 4, 5, 7, 10)},
    "beam 5, no pair twice": {"num_beams": 5, "no_repeat_ngram_size": 2},
    "beam 5, whole endings": {"num_beams": 5, "bad_endings": ENDINGS},
    "5 of beam 5": {"num_beams": 5, "num_captions": 5},
    **{
        f"5 of 5 groups, {penalty}": {
            "num_beams": 5,
            "num_beam_groups": 5,
            "diversity_penalty": penalty,
            "num_captions": 5,
        }
        for penalty in (0.2, 0.5, 1.0)
    },
    **{
        f"{count} samples, {name}": {**settings, "num_captions": count}
        for count, names in ((5, SAMPLED), (20, ("1.0", "0.5")))
        for name, settings in SAMPLED.items()
        if name in names
    },
    **{
        f"consensus of {n}, {t}": {
            "method": "consensus",
            "num_samples": n,
            "temperature": t,
            "rewards": ("cider_d",),
        }
        for n, t in ((20, 0.3), (20, 0.5), (20, 0.7), (50, 0.4))
    },
    "consensus of beam 10": {
        "method": "consensus",
        "candidates": "beam",
        "num_beams": 10,
        "rewards": ("cider_d",),
    },
}
ENSEMBLE = (
    "greedy",
    "beam 3",
    "beam 5",
    "consensus of 20, 0.3",
    "consensus of 20, 0.5",
    "consensus of beam 10",
)
COLUMNS = (
    *(f"{metric} {half}" for metric in ("BLEU-4", "CIDEr-D") for half in HALVES),
    *("words", "distinct-1", "distinct-2", "repeats"),
    *("oracle all", "div-1", "div-2", "mBLEU-4", "captions/s"),
)
_DIGITS = {"distinct-1": 3, "distinct-2": 3, "div-1": 2, "div-2": 2, "repeats": 2, "captions/s": 0}


class Row(NamedTuple):
    """A row of the table: a member of `Table.members`, or an ensemble of all, and its settings."""

    group: str
    method: str
    of: int | Average

    @property
    def name(self) -> str:
        """The name of the row."""
        return f"{self.group}{self.method}"

    @property
    def kind(self) -> str:
        """Rows of one kind are compared with each other."""
        settings = METHODS[self.method]
        count = settings.get("num_captions")
        return f"{self.group}{f'{count} captions' if count else settings.get('method', 'beam')}"


def rows_of(count: int) -> list[Row]:
    """All rows of a table of so many runs."""
    rows = [Row("", name, 0) for name in METHODS]
    if count > 1:
        rows += [Row(f"member {n + 1}, ", "beam 5", n) for n in range(count)]
        rows += [Row("ensemble, ", name, "probabilities") for name in ENSEMBLE]
        rows.append(Row("ensemble of logarithms, ", "beam 5", "log_probabilities"))
    return rows


@dataclasses.dataclass(frozen=True)
class Member:
    """A run, or an ensemble, with the model and the variables for a split's batches."""

    run: Run
    model: Any
    variables: Any

    @functools.cached_property
    def on_devices(self) -> Any:
        """The variables, copied to all devices once."""
        return devices.replicate(self.variables)

    @functools.cached_property
    def captions(self) -> CaptionBatches:
        """Compiles methods once that differ in temperature alone."""
        return CaptionBatches(self.model, self.run.tokenizer)


class Table:
    """The validation split and the runs, on cached features where all encoders are frozen."""

    def __init__(self, runs: Sequence[Run]):
        """Opens the split of the first run's config."""
        config = runs[0].config
        source = check_images(config.dataset, open_source(config.dataset, "validation"))
        table = open_captions(config.dataset, source)
        self.references = dict(zip(table.image_ids, table.captions, strict=True))
        self.split: Split = make_split(config, source, table, runs[0].tokenizer)
        self._members = [Member(run, run.model, run.variables) for run in runs]
        if all(questions.is_cached(run.config) for run in runs):
            found = [from_features(self.split, run.model, run.variables) for run in runs]
            self._members = [Member(run, *own[1:]) for run, own in zip(runs, found, strict=True)]
            self.split = found[0][0]

    @functools.cache  # noqa: B019
    def member(self, of: int | Average) -> Member:
        """A run, or the ensemble of all."""
        if isinstance(of, int):
            return self._members[of]
        run = capjax.ensemble([member.run for member in self._members], of)
        model = dataclasses.replace(
            run.model, members=tuple(member.model for member in self._members)
        )
        return Member(run, model, join_variables([member.variables for member in self._members]))

    def measure(self, row: Row) -> dict[str, float]:
        """Captions the split; the figures of a row."""
        member = self.member(row.of)
        method = member.run.method(**METHODS[row.method])
        found: dict[str, list[str]] = {}
        first, start = 0, 0.0
        batches = self.split.eval_batches(member.run.resize)
        for index, caption in member.captions(member.on_devices, batches, method):
            texts = [each.text for each in caption]
            found[self.split.table.image_ids[index]] = texts
            if not first and len(found) >= self.split.config.evaluation.batch_size:
                first, start = len(found), time.perf_counter()
        rate = (len(found) - first) / (time.perf_counter() - start) if first else 0.0
        return {**figures(self.references, found), "captions/s": rate}


def line(name: str, row: Mapping[str, float]) -> str:
    """A row of the table."""
    cells = [f"{row[key]:.{_DIGITS.get(key, 1)}f}" if key in row else "-" for key in COLUMNS]
    return f"| {' | '.join([name, *cells])} |"


def chosen(rows: Iterable[Row], found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A line of each kind: the best row on the even half, by the oracle if it has one."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    for kind, own in kinds.items():
        metric = "oracle" if "oracle even" in found[own[0].name] else "CIDEr-D"
        best = max((row.name for row in own), key=lambda name: found[name][f"{metric} even"])
        halves = (f"{half} {found[best][f'{metric} {half}']:.1f}" for half in HALVES)
        if len(own) > 1:
            yield f"{kind}: {best} has the best {metric} on even: {', '.join(halves)}"


def read_rows(file: str | None, made: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The rows of a file that were measured with today's settings; none without a file.

    Raises:
      SystemExit: they are of other runs.
    """
    if not file or not os.path.exists(file):
        return {}
    with open(file, encoding="utf-8") as stream:
        known = json.load(stream)
    if known["weights"] != made["weights"]:
        raise SystemExit(f"{file} has rows of other runs ({', '.join(known['runs'])}): remove it")
    methods = {row.name: row.method for row in rows_of(len(known["runs"]))}
    return {
        name: row
        for name, row in known["rows"].items()
        if name in methods
        and known["settings"].get(methods[name]) == json.loads(json.dumps(METHODS[methods[name]]))
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of a command line's runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdirs of one vocabulary")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="rows, such as 'ensemble*'")
    parser.add_argument("--to", metavar="FILE", help="file for all figures, as JSON")
    parser.add_argument("--root", metavar="FOLDER", help="the dataset, if it was moved")
    parser.add_argument("--list", action="store_true", help="print the names of the rows alone")
    arguments = parser.parse_args(argv)
    patterns = arguments.only or ["*"]
    rows = [
        row
        for row in rows_of(len(arguments.runs))
        if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)
    ]
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return
    runs = [capjax.load(directory) for directory in arguments.runs]
    for run in runs if arguments.root else ():
        run.config.dataset.root = arguments.root
    weights = [fingerprint(run.variables) for run in runs]
    made = {"runs": arguments.runs, "weights": weights, "code": code_version()}
    found = read_rows(arguments.to, made)
    table = Table(runs)
    print(f"| method | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|", flush=True)
    for row in rows:
        if row.name not in found:
            found[row.name] = table.measure(row)
            if arguments.to:
                write_json(arguments.to, {**made, "settings": METHODS, "rows": found})
        print(line(row.name, found[row.name]), flush=True)
    print(*chosen(rows, found), sep="\n")


if __name__ == "__main__":
    main()
