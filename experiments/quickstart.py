"""Trains the default config on `shapes`, shows captions, and prints the share of true ones.

    python -m experiments.quickstart [--workdir runs/shapes_transformer]

Equivalent to `capjax.main` in mode train, then in mode evaluate on validation and on heldout.
"""

import argparse
import os

import capjax
from capjax.cli.log import show_log
from capjax.config import build
from capjax.data.images import load_pixels
from capjax.data.sections import open_source
from capjax.evaluate.attention_figures import attention_figure
from capjax.evaluate.figures import save_figure
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


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", default="runs/shapes_transformer", help="folder of the run")
    workdir = parser.parse_args().workdir
    show_log()
    build.compilation_cache(build.COMPILATION_CACHE)
    config = shapes_transformer.get_config()
    train(config, workdir)
    validation = evaluate(config, workdir, split="validation", checkpoint="best")
    print(metrics_line(validation))
    heldout = evaluate(config, workdir, split="heldout", checkpoint="best")
    print(metrics_line(heldout))
    show(workdir)
    print(
        f"\ntruth_rate={validation['truth_rate']:.3f} "
        f"heldout_truth_rate={heldout['truth_rate']:.3f} "
        f"facts={validation['facts']:.3f} "
        f"shuffled_truth_rate={validation['shuffled_truth_rate']:.3f}"
    )


if __name__ == "__main__":
    main()
