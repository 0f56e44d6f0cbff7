"""Scores given captions by their log-probability under a trained model.

capjax score --workdir runs/shapes_transformer --caption "a dog" --caption "a cat" a.jpg b.jpg
capjax score --workdir runs/shapes_transformer --file pairs.csv
capjax score --workdir runs/shapes_transformer --split validation

With --caption, the images are ranked by each caption, or by one image the captions. With --file,
each row's caption is scored with its image. With --split, all captions of a split are scored with
all of its images, and the recall of each from the other is printed.
"""

import argparse
import os
import sys

from tqdm import tqdm

from capjax.cli.errors import reported
from capjax.cli.log import show_log
from capjax.cli.parts import add_parts, import_parts
from capjax.cli.process import run_command
from capjax.config import build
from capjax.data.datasets.folder import read_rows
from capjax.data.download import is_url
from capjax.data.inputs import expand, read_input
from capjax.evaluate.lines import json_line, printable
from capjax.run.evaluate import metrics_line
from capjax.run.likelihood import ScoredCaption
from capjax.run.load import Run, load
from capjax.run.retrieval import retrieval


def main(argv: list[str] | None = None) -> None:
    """Reads the flags and scores."""
    show_log()
    parser = argparse.ArgumentParser(
        prog="capjax score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="*", help="image files, folders of them, or http(s) URLs")
    parser.add_argument(
        "--workdir", required=True, help="folder of a trained run, or a captioner of transformers"
    )
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument(
        "--caption", action="append", default=[], help="a caption; give it again for more"
    )
    parser.add_argument(
        "--file", help="instead, a CSV or JSONL file with the columns image and caption"
    )
    parser.add_argument("--split", help="instead, a split of the run's dataset")
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="of --split, only the first N images"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON lines, with each token's log-probability"
    )
    parser.add_argument(
        "--compilation_cache",
        default=build.COMPILATION_CACHE,
        help="folder of JAX's compiled programs (default: %(default)s); empty keeps none",
    )
    add_parts(parser)
    given = parser.parse_args(argv)
    if [bool(given.caption), bool(given.file), bool(given.split)].count(True) != 1:
        parser.error("give one of --caption with images, --file, and --split")
    if bool(given.images) != bool(given.caption):
        parser.error("images and --caption belong together")
    if given.first < 0 or (given.first and not given.split):
        parser.error("--first needs --split, and a number of 1 or more")
    import_parts(given.parts)
    build.compilation_cache(given.compilation_cache)
    with reported():
        run = load(given.workdir, given.checkpoint)
        if given.split:
            found = retrieval(run, given.split, given.first)
            print(metrics_line(found))
        elif given.file:
            _score_file(run, given.file, as_json=given.json)
        else:
            _rank(run, [*filter(None, expand(given.images))], given.caption, as_json=given.json)


def _rank(run: Run, names: list[str], captions: list[str], *, as_json: bool) -> None:
    """Prints images by descending log-probability for each caption; or an image's captions."""
    images = [read_input(name) if is_url(name) else name for name in names]
    scored = run.score(images, [captions] * len(names))
    rows = [
        (place, name, caption)
        for name, many in zip(names, scored, strict=True)
        for place, caption in enumerate(many)
    ]
    several = len(names) > 1
    rows.sort(key=lambda row: (row[0] if several else 0, -row[2].log_prob))
    for _, name, caption in rows:
        _print(name, caption, as_json=as_json)


def _score_file(run: Run, file: str, *, as_json: bool) -> None:
    """Prints the scores of a table's rows in their order, a batch as soon as it is known."""
    rows, folder = read_rows(file), os.path.dirname(file)
    size = run.batch_shape(None)
    with tqdm(total=len(rows), unit="row", disable=None) as bar:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            images = [os.path.join(folder, row.image) for row in part]
            scored = run.score(images, [row.captions for row in part], batch_size=size)
            with bar.external_write_mode():
                for row, many in zip(part, scored, strict=True):
                    for caption in many:
                        _print(row.image, caption, as_json=as_json)
            bar.update(len(part))


def _print(name: str, caption: ScoredCaption, *, as_json: bool) -> None:
    if as_json:
        row = {
            "image": name,
            "caption": caption.text,
            "log_prob": caption.log_prob,
            "tokens": caption.tokens,
            "log_probs": caption.log_probs,
        }
        line = json_line(row)
    else:
        text = f"{caption.log_prob:.3f}\t{printable(name)}\t{printable(caption.text)}\n"
        line = text.encode()
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run_command(main)
