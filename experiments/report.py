"""Makes a page of a sweep or of a run: table, curves, captions and their attention.

    python -m experiments.report runs/variants --to report/

The page is a folder of static files that opens from disk, without a network: report/index.html.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax.cli.errors import ERRORS, fail
from capjax.cli.log import show_log
from capjax.config import build
from capjax.data.captions import CaptionTable
from capjax.data.source import Source, fingerprints
from capjax.evaluate import caption_view
from capjax.evaluate.caption_view import encode_maps, pieces, seen_part
from capjax.files.atomic import write_atomic
from capjax.files.errors import ReportedError
from capjax.files.text import finite
from capjax.metrics.direction import LESS_IS_BETTER
from capjax.parallel import devices
from capjax.parallel.defaults import COMPILATION_CACHE
from capjax.run.workdir import Workdir
from experiments import report_attention, report_pictures
from experiments.comparison import PERCENT, compare, differing_fields
from experiments.report_data import (
    ReportError,
    collect,
    provenance,
    read_captions,
    read_curves,
    shown_evaluations,
)
from experiments.report_pictures import Picture
from experiments.sweep_files import Evaluation, Run, Sweep

_PAGE = Path(__file__).parent / "report_page"
_INDEX = "data/report.js"

# Images in one file of attention, which the page loads when one of them is viewed.
_CHUNK = 50


def write_report(
    directory: str,
    out: str,
    *,
    images: int = 200,
    pictures: str = "thumbnails",
    attention: str = "first",
) -> float:
    """Writes the page of a sweep's folder or of a run's workdir.

    Args:
      directory: the folder of the sweep or run.
      out: the folder of the page: new, empty, or an earlier report, which is replaced once the new
        one is complete.
      images: number of validation images shown, from the first; 0 shows all.
      pictures: "thumbnails" in the page's folder, or "links" to the dataset's files.
      attention: the evaluations of each run with attention: "first", "all" or "none".

    Returns:
      The size of the page in MB.

    Raises:
      ResultsError: `directory` is no sweep and no run, or one of its files is damaged.
      ReportError: `out` holds something else, or the runs used different data.
      DataError, ImageError: the dataset cannot be used.
    """
    sweep = collect(directory)
    _check_out(out)
    # A temporary folder beside `out`, so that relative links stay valid.
    out = os.path.realpath(out)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=os.path.dirname(out)) as made:
        _write_data(sweep, made, images, pictures, attention)
        os.makedirs(out, exist_ok=True)
        for file in (*sorted(_PAGE.iterdir()), *caption_view.FILES):
            write_atomic(os.path.join(out, file.name), file.read_bytes())
        # The data last, since they mark a folder as a report.
        for folder in ("pictures", "data"):
            new, old = (os.path.join(place, folder) for place in (made, out))
            if os.path.isdir(old):
                os.rename(old, os.path.join(made, f"old-{folder}"))
            if os.path.isdir(new):
                os.rename(new, old)
    return sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file()) / 1e6


def _write_data(sweep: Sweep, out: str, images: int, pictures: str, attention: str) -> None:
    """Writes the data of the page into a folder."""
    shown = [run for run in sweep.runs if shown_evaluations(run)]
    gallery: dict[str, Any] = {"ids": [], "total": 0}
    if shown:
        config, data = _open(shown[0])
        gallery, found = _gallery(shown[0], config, data[0], images, out, pictures)
        for number, run in enumerate(shown):
            _write_run(run, sweep.runs.index(run), gallery["ids"], data, found, out, attention)
            print(f"captions of {run.name} ({number + 1} of {len(shown)})", flush=True)
    else:
        print(
            f"{sweep.directory} has no evaluation on validation with results by image: the page "
            "has no gallery. `capjax.main --mode evaluate` makes one for a run"
        )
    _write(out, "data/images.js", "images", gallery)
    _write(out, _INDEX, "report", _index(sweep))


def _check_out(out: str) -> None:
    """Raises ReportError if anything but a report would be overwritten."""
    if os.path.isfile(out):
        raise ReportError(f"{out} is a file: --to must be a folder")
    if os.path.isdir(out) and os.listdir(out) and not os.path.isfile(os.path.join(out, _INDEX)):
        raise ReportError(f"{out} is not empty and no report: --to must be a new folder")


def _open(run: Run) -> tuple[ConfigDict, tuple[Source, CaptionTable]]:
    """Returns a run's config, and the data on which it was evaluated."""
    first = _first(run)
    config = report_attention.config_of(run, first)
    data = report_attention.open_data(config)
    if first.record["source"]["fingerprint"] not in fingerprints(data[0]):
        raise ReportError(
            f"{data[0].name} has changed since {run.name} was evaluated: restore the data, "
            "or evaluate again"
        )
    return config, data


def _first(run: Run) -> Evaluation:
    return next(iter(shown_evaluations(run).values()))


def _gallery(
    run: Run, config: ConfigDict, source: Source, images: int, out: str, kind: str
) -> tuple[dict[str, Any], list[Picture]]:
    """Writes the pictures; returns the images and references that all runs share."""
    count = min(images or len(source), len(source))
    evaluation = _first(run)
    ids = list(read_captions(evaluation))[:count]
    if ids != [source[index].image_id for index in range(count)]:
        raise ReportError(
            f"{evaluation.stem}.captions.json has other images than {source.name}: evaluate again"
        )
    references = dict(zip(evaluation.images.ids, evaluation.images.references, strict=True))
    found = list(_pictures(source, count, out, kind, config.dataset.num_threads))
    gallery = {
        "ids": ids,
        "total": len(source),
        "references": [references.get(image_id, ()) for image_id in ids],
        "pictures": [picture.address for picture in found],
        "sizes": [[picture.width, picture.height] for picture in found],
    }
    return gallery, found


def _pictures(source: Source, count: int, out: str, kind: str, threads: int) -> Iterator[Picture]:
    if kind == "thumbnails":
        size = report_pictures.estimate(source, count)
        print(f"{count} thumbnails of {source.name} will take about {size:.1f} MB", flush=True)
        found = report_pictures.write_thumbnails(source, count, out, threads)
    else:
        print(f"{count} images of {source.name} are linked, which takes no space")
        found = report_pictures.link_pictures(source, count, out, threads)
    yield from tqdm(found, desc="pictures", total=count, unit="image")


def _write_run(
    run: Run,
    number: int,
    ids: Sequence[str],
    data: tuple[Source, CaptionTable],
    pictures: Sequence[Picture],
    out: str,
    attention: str,
) -> None:
    """Writes the captions and the attention of a run's evaluations."""
    config = report_attention.config_of(run, _first(run))
    resize = build.resize(config.dataset)
    boxes = [_seen(resize, picture) for picture in pictures]
    for place, evaluation in enumerate(shown_evaluations(run).values()):
        name = f"captions-{number}-{place}"
        captions = read_captions(evaluation)
        cider = dict(zip(evaluation.images.ids, evaluation.images.metrics["CIDEr-D"], strict=True))
        page: dict[str, Any] = {
            "captions": [captions.get(image_id, "") for image_id in ids],
            "cider": [_round(cider.get(image_id)) for image_id in ids],
            "boxes": boxes if any(boxes) else None,
            "chunk": _CHUNK,
        }
        if attention == "all" or (attention == "first" and place == 0):
            try:
                page["words"] = _write_attention(
                    run, evaluation, config, page["captions"], data, out, f"{number}-{place}"
                )
            except ReportedError as error:
                _warn(f"{run.name} is shown without attention: {error}")
        _write(out, f"data/{name}.js", name, page)


def _seen(resize: Any, picture: Picture) -> list[float] | None:
    """`seen_part` of an image; None for all."""
    box = seen_part(resize, picture.width, picture.height)
    return None if box == [0, 0, 1, 1] else box


def _write_attention(
    run: Run,
    evaluation: Evaluation,
    config: ConfigDict,
    captions: Sequence[str],
    data: tuple[Source, CaptionTable],
    out: str,
    name: str,
) -> list[list[str] | None]:
    """Writes attention in chunks; returns the pieces of each caption, None if it has changed."""
    found = report_attention.captions_with_attention(
        config, run.workdir, evaluation, data, len(captions)
    )
    words, maps = [], []
    bar = tqdm(found, desc=f"attention of {run.name}", total=len(captions), unit="image")
    for text, caption in zip(captions, bar, strict=True):
        same = caption.text == text
        words.append(pieces(text, caption.words) if same else None)
        maps.append(encode_maps(caption) if same else None)
    for number, start in enumerate(range(0, len(captions), _CHUNK)):
        chunk = f"attention-{name}-{number}"
        _write(out, f"data/{chunk}.js", chunk, maps[start : start + _CHUNK])
    if others := words.count(None):
        _warn(
            f"{run.name}: {others} of {len(captions)} captions differ from "
            f"{evaluation.stem}.captions.json, and are shown without attention"
        )
    return words


def _index(sweep: Sweep) -> dict[str, Any]:
    about = {"file": sweep.file, "code": sweep.code}
    return {
        "title": os.path.basename(os.path.abspath(sweep.directory)),
        "about": {name: value for name, value in about.items() if value},
        "baseline": sweep.baseline if len(sweep.variants) > 1 else None,
        "evaluations": list(sweep.evaluations),
        "fields": differing_fields(sweep),
        "percent": PERCENT,
        "less_is_better": LESS_IS_BETTER,
        "rows": [dataclasses.asdict(row) for row in compare(sweep)],
        "runs": [_run(run) for run in sweep.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "variant": run.variant,
        "seed": run.seed,
        "status": run.status,
        "error": run.error,
        "config": run.config,
        "curves": read_curves(Workdir(run.workdir).path(Workdir.METRICS)),
        "provenance": provenance(run),
        "evaluations": [
            {
                "name": name,
                "stem": os.path.basename(found.stem),
                "step": found.record["step"],
                "decoding": found.record["decoding"],
            }
            for name, found in shown_evaluations(run).items()
        ],
    }


def _write(out: str, file: str, name: str, value: Any) -> None:
    """Writes a value as a script, the only data that a page opened from disk can load."""
    text = json.dumps(finite(value), separators=(",", ":"), allow_nan=False)
    write_atomic(os.path.join(out, file), f"report.put({json.dumps(name)},{text});\n".encode())


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("directory", help="folder of a sweep or of a run")
    parser.add_argument("--to", required=True, help="folder of the page")
    parser.add_argument(
        "--images",
        type=int,
        default=200,
        help="number of validation images shown, from the first; 0 for all",
    )
    parser.add_argument(
        "--pictures",
        choices=("thumbnails", "links"),
        default="thumbnails",
        help="copies in the page's folder, or links to the dataset's files",
    )
    parser.add_argument(
        "--attention",
        choices=("first", "all", "none"),
        default="first",
        help="the evaluations of each run with attention",
    )
    flags = parser.parse_args()
    if flags.images < 0:
        parser.error("--images must be at least 0")
    show_log()
    logging.set_verbosity(logging.WARNING)
    devices.compilation_cache(COMPILATION_CACHE)
    try:
        size = write_report(
            flags.directory,
            flags.to,
            images=flags.images,
            pictures=flags.pictures,
            attention=flags.attention,
        )
    except ERRORS as error:
        fail(str(error))
    print(f"wrote {os.path.join(flags.to, 'index.html')}: {size:.1f} MB")


if __name__ == "__main__":
    main()
