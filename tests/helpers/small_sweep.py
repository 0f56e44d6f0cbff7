"""The folder of a small sweep, as `experiments.sweep` leaves it, without any model.

Three variants of two seeds caption twelve images in two ways. "wide" says more that is right than
"base", "gru" less; gru-seed1 failed. Pictures and checkpoints there are none.
"""

import json
import os
import random

import numpy as np

from capjax.data.captions import CaptionTable
from capjax.evaluate.captioning import Caption
from capjax.evaluate.results import coco_results
from capjax.evaluate.scoring import image_results, score_captions
from capjax.files.atomic import write_json

VARIANTS = {
    "base": {},
    "wide": {"decoder.width": 32, "objective.weights": [0.5, 0.5]},
    "gru": {"decoder.cell": "gru", "decoder.width": 24},
}
SEEDS = (0, 1)
EVALUATIONS = {"greedy": {"num_beams": 1}, "beam5": {"num_beams": 5, "length_penalty": 0.7}}
BASELINE = "base"
FAILED = "gru-seed1"
ERROR = "error: config.decoder.cell='gru' | out of\nmemory"

# How often a word of a caption is the reference's.
_RIGHT = {"base": 0.6, "wide": 0.9, "gru": 0.4}
_WORDS = ["a", "the", "dog", "cat", "bird", "boy", "girl", "runs", "sits", "plays"]
_WORDS += ["on", "over", "near", "grass", "water", "sand"]


def make_table() -> CaptionTable:
    """Twelve images of three references each."""
    draw = random.Random(0)
    captions = tuple(
        tuple(" ".join(draw.choices(_WORDS, k=draw.randint(4, 8))) for _ in range(3))
        for _ in range(12)
    )
    # Not in the order of their names.
    return CaptionTable(tuple(f"{(5 * i) % 12}.jpg" for i in range(12)), captions, "fingerprint")


def stem_of(evaluation: str) -> str:
    """The name that the files of an evaluation begin with."""
    return f"validation-step40-beam{EVALUATIONS[evaluation]['num_beams']}"


def write_small_sweep(directory) -> None:
    """Writes it into a folder, which is made."""
    table = make_table()
    runs = []
    for variant, overrides in VARIANTS.items():
        for seed in SEEDS:
            name = f"{variant}-seed{seed}"
            row = {"name": name, "variant": variant, "seed": seed, "workdir": f"runs/{name}"}
            runs.append(row | {"overrides": overrides | ({"seed": seed} if seed else {})})
            _write_run(os.path.join(directory, "runs", name), variant, seed, table)
    sweep = {"file": "small_variants.py", "code": {"capjax": "0.1.0", "commit": "abc"}}
    sweep |= {"baseline": BASELINE, "evaluations": EVALUATIONS, "runs": runs}
    write_json(os.path.join(directory, "sweep.json"), sweep)


def _write_run(workdir: str, variant: str, seed: int, table: CaptionTable) -> None:
    config = {"seed": seed, "decoder": {"width": 16, "cell": "lstm"}, "objective": {"weights": [1]}}
    for field, value in VARIANTS[variant].items():
        section, name = field.split(".")
        config[section] = {**config[section], name: value}
    write_json(os.path.join(workdir, "config.json"), config)
    failed = os.path.basename(workdir) == FAILED
    evaluations = {} if failed else {name: stem_of(name) for name in EVALUATIONS}
    for name, stem in evaluations.items():
        write_evaluation(
            os.path.join(workdir, "evaluation", stem), table, said(variant, seed, name)
        )
    record = {
        "status": "failed" if failed else "done",
        "error": ERROR if failed else None,
        "seconds": {
            "train": 60.0 + seed,
            **{stem: 3.0 + number for number, stem in enumerate(evaluations.values())},
        },
        "captions_per_second": 1000.0 + seed,
        "peak_memory_mib": None if failed else 500.0 + seed,
        "parameters": 12345,
        "trainable_parameters": 2345,
        "evaluations": evaluations,
    }
    write_json(os.path.join(workdir, "sweep_run.json"), record)


def said(variant: str, seed: int, evaluation: str) -> dict[str, str]:
    """What a run says of each image."""
    draw = random.Random(f"{variant} {seed} {evaluation}")
    table = make_table()
    return {
        image_id: " ".join(
            word if draw.random() < _RIGHT[variant] else draw.choice(_WORDS)
            for word in references[0].split()
        )
        for image_id, references in zip(table.image_ids, table.captions, strict=True)
    }


def write_evaluation(stem: str, table: CaptionTable, hypotheses: dict[str, str]) -> None:
    """Writes the three files of an evaluation."""
    captions = {name: Caption(text, 0.0, 0.0, True, ()) for name, text in hypotheses.items()}
    write_json(f"{stem}.captions.json", coco_results(captions))
    write_json(f"{stem}.images.json", image_results(table, hypotheses))
    metrics = {"loss": 2.5, **score_captions(table, hypotheses, meteor=False)}
    record = {"metrics": metrics, "images": len(hypotheses), "step": 40}
    write_json(f"{stem}.metrics.json", record | {"code": {"commit": "abc"}, "config": {}})


def evaluation_of(folder, run, evaluation, kind):
    """A file of an evaluation."""
    stem = stem_of(evaluation)
    return folder / "runs" / run / "evaluation" / f"{stem}.{kind}.json"


def edit(file, **values):
    """Sets values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def cider(folder, run, evaluation="beam5"):
    """CIDEr-D of the images, in the order of their ids."""
    found = json.loads(evaluation_of(folder, run, evaluation, "images").read_text())
    values = dict(zip(found["image_ids"], found["metrics"]["CIDEr-D"], strict=True))
    return np.array([values[image_id] for image_id in sorted(values)])
