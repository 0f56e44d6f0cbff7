"""The work of `capjax score`, apart from its flags, since this imports JAX."""

import argparse
import os
import sys

from tqdm import tqdm

from capjax.data.download import is_url
from capjax.data.inputs import expand, read_input
from capjax.data.rows import folder_of, read_rows
from capjax.evaluate.lines import json_line, printable
from capjax.parallel import devices
from capjax.run.ensemble import ensemble
from capjax.run.evaluate import metrics_line
from capjax.run.likelihood import ScoredCaption
from capjax.run.load import Run, load
from capjax.run.retrieval import retrieval


def score_captions(given: argparse.Namespace) -> None:
    """Scores the captions of a command line, and prints them; see `capjax.cli.score`."""
    devices.compilation_cache(given.compilation_cache)
    runs = [load(workdir, given.checkpoint) for workdir in given.workdir]
    run = ensemble(runs, given.average or "probabilities") if len(runs) > 1 else runs[0]
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
    (rows, left_out), folder = read_rows(file), folder_of(file)
    if left_out:
        print(f"{file}: left out {left_out}", file=sys.stderr)
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
