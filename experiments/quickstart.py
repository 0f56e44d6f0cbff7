"""Trains the default config on `shapes`, shows captions, and says how far they are true.

    python -m experiments.quickstart [--workdir runs/shapes_transformer]

Equivalent to `capjax.main` in mode train, then in mode evaluate on validation and on heldout.
"""

import argparse
import os
from collections.abc import Sequence

import capjax
from capjax.cli.log import show_log
from capjax.data.images import load_pixels
from capjax.data.sections import open_source
from capjax.data.shapes.facts import KINDS
from capjax.evaluate.attention_figures import attention_figure
from capjax.evaluate.figures import save_figure
from capjax.metrics import meteor
from capjax.parallel import devices
from capjax.parallel.defaults import COMPILATION_CACHE
from capjax.run.evaluate import evaluate, metrics_line
from capjax.run.train import train
from configs import shapes_transformer

EXAMPLES = 4


def show(workdir: str) -> None:
    """Prints a few validation captions with a reference, and draws their attention."""
    run = capjax.load(workdir)
    source = open_source(run.config.dataset, "validation")
    examples = [source[index] for index in range(EXAMPLES)]
    captions = run.caption([example.image for example in examples], attention=True)
    for example, caption in zip(examples, captions, strict=True):
        pixels = load_pixels(example.image, run.config.dataset.image_size)
        path = os.path.join(workdir, "figures", f"{example.image_id}.png")
        save_figure(attention_figure(pixels, caption), path)
        print(f"\n{example.image_id}, attention: {path}")
        print(f"  model:     {caption}\n  reference: {example.captions[0]}")


def summary(validation: dict[str, float], heldout: dict[str, float]) -> str:
    """What the README's section on `shapes` explains, as text.

    Args:
      validation: metrics of `evaluate`, on the split that chose the checkpoint.
      heldout: metrics on the split whose colours and textures are new to their shapes.
    """
    rows = []
    for kind in KINDS:
        true, stated = validation.get(f"truth_rate_{kind}", 0.0), validation[f"stated_{kind}"]
        told = validation[f"foil_accuracy_{kind}"], heldout[f"foil_accuracy_{kind}"]
        covered = validation[f"coverage_{kind}"]
        rows.append(
            f"{kind:8}  {stated:6.0f}  {true:6.3f}  {covered:8.3f}  {told[0]:10.3f}  {told[1]:7.3f}"
        )
    head = "validation (it chose the checkpoint)  foils told"
    names = ("truth_rate", "coverage", "foil_accuracy")
    shuffled = ("shuffled_truth_rate", "shuffled_foil_accuracy")
    novel = ("novel_pair_truth_rate", "novel_attribute_truth_rate", "foil_accuracy_novel")
    counts = ("novel_pair_captions", "novel_attribute_captions")
    return "\n".join(
        [
            head,
            "kind      stated    true  coverage  validation  heldout",
            *rows,
            _line("validation", validation, (*names, *shuffled)),
            _line("heldout", heldout, (*names, *novel, *counts)),
        ]
    )


def _line(split: str, metrics: dict[str, float], names: Sequence[str]) -> str:
    """Metrics in one line, without the rates of what no caption stated."""
    said = [f"{n}={metrics[n]:.3f}".removesuffix(".000") for n in names if n in metrics]
    return f"{split}: {' '.join(said)}"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/shapes_transformer", help="folder of the run")
    workdir = parser.parse_args().workdir
    show_log()
    devices.compilation_cache(COMPILATION_CACHE)
    config = shapes_transformer.get_config()
    train(config, workdir)
    with meteor.started():
        validation = evaluate(config, workdir, split="validation", checkpoint="best")
        print(metrics_line(validation))
        heldout = evaluate(config, workdir, split="heldout", checkpoint="best")
        print(metrics_line(heldout))
    show(workdir)
    print(f"\n{summary(validation, heldout)}")


if __name__ == "__main__":
    main()
