"""Self-critical training on `shapes` by several rewards, from one run: which ones are gamed.

    python -m experiments.shapes_rewards [--workdir runs/shapes_rewards] [--only NAME ...]

Trains the default by cross-entropy for 600 steps, and from there by each reward for 200 at a lower
rate; "cross-entropy" goes on for as many, as a control. Prints a table of the test split: of greedy
captions CIDEr-D, those that are true and the coverage of the references' facts (see
`capjax.data.shapes.truth`); the foils told; captions that parse, and that end; words a caption; the
share of different pairs of words; and the last logged reward and divergence of the samples. Draws
the curves by step in `curves.png`. About half an hour on one CPU core. The same command continues
it, also after a signal.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from capjax.cli.log import show_log
from capjax.evaluate.figures import save_figure
from capjax.files.atomic import write_json
from capjax.metrics.rewards.cider_d import CiderD
from capjax.parallel import devices
from capjax.parallel.defaults import COMPILATION_CACHE
from capjax.parts import REWARDS
from capjax.run.evaluate import evaluate
from capjax.run.load import load_tokenizer
from capjax.run.train import train
from capjax.train.writer import read_metrics
from configs import shapes_transformer
from experiments.diversity import distinct
from experiments.shapes_facts import Facts, Precision
from experiments.shapes_scenes import Scenes

FIRST_STEPS, STEPS = 600, 200
FIRST = "start"
# The rewards of each stage by name, with their weights; none is cross-entropy.
STAGES: dict[str, dict[str, float]] = {
    "cross-entropy": {},
    "CIDEr-D": {"cider_d": 1.0},
    "facts": {"facts": 1.0},
    # CIDEr-D is about five times as large here.
    "CIDEr-D and facts": {"cider_d": 0.2, "facts": 1.0},
    "CIDEr-D without the end": {"cider_d_without_end": 1.0},
    "precision of words": {"precision": 1.0},
    "truth by the scene": {"scenes": 1.0},
}
COLUMNS = {
    "CIDEr-D": 1,
    "truth_rate": 2,
    "coverage": 2,
    "foil_accuracy": 3,
    "parsed_rate": 2,
    "finished": 2,
    "words": 1,
    "distinct-2": 3,
    "reward": 2,
    "kl": 1,
}


# The curves by group and scalar, with their axes; rewards differ in scale.
CURVES = {
    ("train", "reward"): "gain of reward, share of its start",
    ("train", "length"): "tokens of a sample",
    ("train", "distinct_2"): "distinct-2 of an image's samples",
    ("train", "kl"): "KL from the start, nats",
    ("validation", "CIDEr-D"): "CIDEr-D, greedy",
    ("validation", "truth_rate"): "truth rate, greedy",
    ("validation", "coverage"): "coverage, greedy",
    ("validation", "parsed_rate"): "parsed rate, greedy",
}

# As in docs/self_critical.md, of before the default's encoder saw contrasts.
_ENCODER = {"contrast": False, "widths": (32, 64, 128)}


def first_config() -> ConfigDict:
    """The first stage: half of the default's steps, evaluated once, greedily."""
    config = shapes_transformer.get_config()
    config.encoder.update(_ENCODER)
    config.optimizer.schedule = "cosine"
    config.dataset.length_bucket, config.ema_decay = 8, 0.998
    config.num_steps = config.eval_every = FIRST_STEPS
    _measure_little(config)
    return config


def stage_config(name: str, first: str) -> ConfigDict:
    """A second stage, from the best checkpoint of the run in `first`."""
    rewards = STAGES[name]
    config = shapes_transformer.get_config("self_critical" if rewards else "")
    config.init_from = first
    config.encoder.update(_ENCODER)
    config.num_steps, config.eval_every, config.log_every = STEPS, STEPS // 2, 10
    config.dataset.length_bucket = 0 if rewards else 8
    config.ema_decay = 0.98
    config.optimizer.update(kind="adamw", learning_rate=1e-4, warmup_steps=20, schedule="linear")
    if rewards:
        config.objective.rewards = (*rewards,)
        config.objective.reward_weights = (*rewards.values(),)
    _measure_little(config)
    return config


def _measure_little(config: ConfigDict) -> None:
    # Any word: the default leaves some out.
    config.decoding.update(num_beams=1, length_penalty=1.0, suppress=(), bad_words=())
    config.evaluation.update(num_samples=1, temperatures=(0.0,))


def register(first: str) -> None:
    """Registers the rewards of this experiment; facts are read by the vocabulary of a run."""
    tokenizer = load_tokenizer(first)
    facts, scenes = Facts.of(tokenizer), Scenes.of(tokenizer)
    REWARDS.register("facts", lambda: facts)
    REWARDS.register("scenes", lambda: scenes)
    REWARDS.register("precision", Precision)
    REWARDS.register("cider_d_without_end", lambda: CiderD(end_token=False))


def measure(config: ConfigDict, directory: str) -> dict[str, float]:
    """Trains a stage, or continues it, and captions the test split; the figures of its row."""
    train(config, directory)
    found = evaluate(config, directory, split="test", checkpoint="latest")
    (file,) = Path(directory, "evaluation").glob("test-*.captions.json")
    words = [row["caption"].split() for row in json.loads(file.read_text())]
    found["words"] = sum(map(len, words)) / len(words)
    found["distinct-2"] = distinct(words, 2)
    rows = read_metrics(os.path.join(directory, "metrics.jsonl"))
    trained = [row for row in rows if "reward" in row]
    return found | {name: trained[-1][name] for name in ("reward", "kl") if trained}


def line(name: str, row: Mapping[str, float]) -> str:
    """A row of the table."""
    cells = [f"{row[key]:.{digits}f}" if key in row else "-" for key, digits in COLUMNS.items()]
    return f"| {' | '.join([name, *cells])} |"


def curves(workdir: str, names: Sequence[str]) -> Figure:
    """Draws the scalars of `CURVES` by step, a line for each stage that has them."""
    figure = Figure(figsize=(13, 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = dict(zip(CURVES, figure.subplots(2, 4).flat, strict=True))
    began = _rows(workdir, FIRST)[-1]
    for place, name in enumerate(names):
        rows = [{**began, "step": 0}, *_rows(workdir, name)]
        for (group, scalar), axis in panels.items():
            own = [row for row in rows if row["group"] == group and scalar in row]
            values = [row[scalar] for row in own]
            if scalar == "reward" and own:
                values = [(value - values[0]) / abs(values[0]) for value in values]
            style = {"color": f"C{place}", "marker": "o" if group == "validation" else ""}
            axis.plot([row["step"] for row in own], values, label=name, **style)
    for key, axis in panels.items():
        axis.set(xlabel="step", ylabel=CURVES[key])
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return figure


def _rows(workdir: str, name: str) -> list[dict]:
    """The rows of `metrics.jsonl` of a stage."""
    return read_metrics(os.path.join(_directory(workdir, name), "metrics.jsonl"))


def _directory(workdir: str, name: str) -> str:
    return os.path.join(workdir, name.replace(" ", "_"))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the stages of a command line that are not done, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/shapes_rewards", help="folder of all runs")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=[*STAGES], metavar="NAME")
    arguments = parser.parse_args(argv)
    show_log()
    devices.compilation_cache(COMPILATION_CACHE)
    first = os.path.join(arguments.workdir, FIRST)
    rows = {}
    for name in (FIRST, *arguments.only):
        directory = _directory(arguments.workdir, name)
        file = os.path.join(directory, "row.json")
        if not os.path.exists(file):
            if name != FIRST:
                register(first)
            config = first_config() if name == FIRST else stage_config(name, first)
            write_json(file, measure(config, directory))
        rows[name] = json.loads(Path(file).read_text())
    print(f"| trained by | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")
    for name, row in rows.items():
        print(line(name, row))
    figure = curves(arguments.workdir, arguments.only)
    save_figure(figure, os.path.join(arguments.workdir, "curves.png"))


if __name__ == "__main__":
    main()
