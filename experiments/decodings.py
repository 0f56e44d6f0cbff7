"""Decoding methods side by side, on the validation split of one run or of an ensemble.

    python -m experiments.decodings RUN [RUN ...] [--to FILE.json] [--only NAME ...]

Prints a row for each method: BLEU-4 and CIDEr-D on one half of the images (those with an even
number), on the other, and on all, so that a setting can be chosen on one half and reported on the
other; words a caption; distinct bigrams of all words; the share of captions with a word of four
letters or more twice; captions/s after the first batch, of the decoding of cached features. Several
captions an image add the best CIDEr-D among them (the oracle) and mBLEU-4, each against the image's
others. With several runs there are rows of each, of their ensemble and of its consensus.
"""

import argparse
import dataclasses
import functools
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import capjax
from capjax.config import questions
from capjax.data.captions import CaptionTable
from capjax.data.sections import check_images, open_captions, open_source
from capjax.evaluate.captioning import Caption, CaptionBatches
from capjax.evaluate.results import code_version
from capjax.files.atomic import write_json
from capjax.metrics import coco
from capjax.models.ensemble import Average, join_variables
from capjax.parallel import devices
from capjax.run.features import from_features
from capjax.run.load import Run
from capjax.run.split import Split, make_split

ENDINGS = ("a", "an", "the", "of", "with", "in")
METHODS: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    **{f"beam {k}": {"num_beams": k} for k in (2, 3, 4, 5, 7, 10)},
    "beam 5, no pair twice": {"num_beams": 5, "no_repeat_ngram_size": 2},
    "beam 5, whole endings": {
        "num_beams": 5,
        "bad_endings": ("a", "an", "the", "of", "with", "in"),
    },
    "groups 6 / 3, 0.5": {
        "num_beams": 6,
        "num_beam_groups": 3,
        "diversity_penalty": 0.5,
        "num_captions": 5,
    },
    "5 of beam 5": {"num_beams": 5, "num_captions": 5},
    "5 samples, 1.0": {"temperature": 1.0, "num_captions": 5},
    "5 samples, 0.5": {"temperature": 0.5, "num_captions": 5},
    "5 samples, top-p 0.9": {"temperature": 1.0, "top_p": 0.9, "num_captions": 5},
    "5 samples, min-p 0.2": {"temperature": 1.0, "min_p": 0.2, "num_captions": 5},
    "5 samples, typical 0.9": {"temperature": 1.0, "typical_p": 0.9, "num_captions": 5},
    "20 samples, 0.5": {"temperature": 0.5, "num_captions": 20},
    **{
        f"consensus of {n}, {t}": {
            "method": "consensus",
            "num_samples": n,
            "temperature": t,
            "reward": "cider_d",
        }
        for n, t in ((20, 0.3), (20, 0.5), (20, 0.7), (50, 0.4))
    },
    "consensus of beam 10": {
        "method": "consensus",
        "candidates": "beam",
        "num_beams": 10,
        "reward": "cider_d",
    },
}
ENSEMBLE = (
    "greedy",
    "beam 3",
    "beam 5",
    "consensus of 20, 0.3",
    "consensus of 20, 0.5",
    "consensus of 50, 0.4",
    "consensus of beam 10",
)


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


def prepare(runs: Sequence[Run]) -> tuple[Split, list[Member]]:
    """The validation split, and each run: of cached features where all encoders are frozen."""
    config = runs[0].config
    source = check_images(config.dataset, open_source(config.dataset, "validation"))
    table = open_captions(config.dataset, source)
    split = make_split(config, source, table, runs[0].tokenizer)
    members = [Member(run, run.model, run.variables) for run in runs]
    if all(questions.is_cached(run.config) for run in runs):
        found = [from_features(split, run.model, run.variables) for run in runs]
        split = found[0][0]
        members = [Member(run, *parts[1:]) for run, parts in zip(runs, found, strict=True)]
    return split, members


def join(members: Sequence[Member], average: Average) -> Member:
    """The ensemble of members."""
    run = capjax.ensemble([member.run for member in members], average)
    model = dataclasses.replace(run.model, members=tuple(member.model for member in members))
    return Member(run, model, join_variables([member.variables for member in members]))


def decode(
    member: Member, split: Split, settings: Mapping[str, Any]
) -> tuple[dict[str, Caption], float]:
    """All captions by image id, and captions/s after the first batch."""
    method = member.run.method(**settings)
    batches = split.eval_batches(member.run.resize)
    found: dict[str, Caption] = {}
    first, start = 0, 0.0
    for index, caption in member.captions(member.on_devices, batches, method):
        found[split.table.image_ids[index]] = caption
        if not first and len(found) >= split.config.evaluation.batch_size:
            first, start = len(found), time.perf_counter()
    return found, (len(found) - first) / (time.perf_counter() - start)


def figures(
    table: CaptionTable, captions: Mapping[str, Caption], rate: float = 0.0
) -> dict[str, float]:
    """The figures of a row; see the module."""
    references = dict(zip(table.image_ids, table.captions, strict=True))
    texts = {image_id: caption.text for image_id, caption in captions.items()}
    row: dict[str, float] = {}
    for name, ids in (("even", [*texts][::2]), ("odd", [*texts][1::2]), ("all", [*texts])):
        theirs, ours = ({i: found[i] for i in ids} for found in (references, texts))
        scores = coco.score(theirs, ours, meteor=False)
        row |= {f"{metric} {name}": scores[metric] for metric in ("BLEU-4", "CIDEr-D")}
    words = [text.split() for text in texts.values()]
    pairs = [pair for said in words for pair in itertools.pairwise(said)]
    row["words"] = statistics.mean(map(len, words))
    row["distinct-2"] = len({*pairs}) / max(len(pairs), 1)
    row["repeats"] = statistics.mean(map(repeats, words))
    row["captions/s"] = rate
    many = {i: [c.text, *(other.text for other in c.alternatives)] for i, c in captions.items()}
    if (count := min(map(len, many.values()))) > 1:
        row |= of_several({i: references[i] for i in many}, many, count)
    return row


def repeats(words: Sequence[str]) -> bool:
    """True if a word of four letters or more occurs twice."""
    return any(count > 1 and len(word) > 3 for word, count in Counter(words).items())


def of_several(
    references: Mapping[str, Sequence[str]], many: Mapping[str, Sequence[str]], count: int
) -> dict[str, float]:
    """The oracle's CIDEr-D and mBLEU-4 of the first `count` captions of each image."""
    ranks, likeness = [], []
    for place in range(count):
        said = {i: texts[place] for i, texts in many.items()}
        ranks.append(coco.per_image(references, said).metrics["CIDEr-D"])
        others = {i: [*texts[:place], *texts[place + 1 : count]] for i, texts in many.items()}
        if count <= 5:  # It takes the square of the time.
            likeness.append(coco.score(others, said, meteor=False)["BLEU-4"])
    found = {"oracle": float(np.max(ranks, axis=0).mean())}
    return found | ({"mBLEU-4": statistics.mean(likeness)} if likeness else {})


COLUMNS = (
    *(f"{metric} {half}" for metric in ("BLEU-4", "CIDEr-D") for half in ("even", "odd", "all")),
    *("words", "distinct-2", "repeats", "oracle", "mBLEU-4", "captions/s"),
)


def line(name: str, row: Mapping[str, float]) -> str:
    """A row of the table."""
    digits = {"distinct-2": 3, "repeats": 2, "captions/s": 0}
    cells = [f"{row[key]:.{digits.get(key, 1)}f}" if key in row else "-" for key in COLUMNS]
    return f"| {' | '.join([name, *cells])} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table of a command line's runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="workdirs of one vocabulary")
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="NAME", help="these methods")
    parser.add_argument("--to", metavar="FILE", help="file for all figures, as JSON")
    arguments = parser.parse_args(argv)
    split, members = prepare([capjax.load(directory) for directory in arguments.runs])
    rows = [("", members[0], name) for name in arguments.only or METHODS]
    if len(members) > 1:
        rows += [(f"member {n}, ", member, "beam 5") for n, member in enumerate(members, 1)]
        of_probabilities = join(members, "probabilities")
        names = [name for name in arguments.only or ENSEMBLE if name in ENSEMBLE]
        rows += [("ensemble, ", of_probabilities, name) for name in names]
        rows.append(("ensemble of logarithms, ", join(members, "log_probabilities"), "beam 5"))
    print(f"| method | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|", flush=True)
    found: dict[str, dict[str, float]] = {}
    for prefix, member, name in rows:
        found[prefix + name] = figures(split.table, *decode(member, split, METHODS[name]))
        print(line(prefix + name, found[prefix + name]), flush=True)
        if arguments.to:
            said = {"runs": arguments.runs, "settings": METHODS, "code": code_version()}
            write_json(arguments.to, {**said, "rows": found})


if __name__ == "__main__":
    main()
