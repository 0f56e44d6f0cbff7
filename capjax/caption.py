"""Captions photographs with a trained run: files, folders and URLs.

python -m capjax.caption --workdir runs/shapes_transformer photo.jpg holiday/ https://...
"""

import argparse
import concurrent.futures
import functools
import hashlib
import json
import os
import re
import sys
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from capjax import build, checks
from capjax.data.images import ImageError, Resize, load_image, load_pixels
from capjax.data.inputs import download, expand, is_url
from capjax.evaluate.captioning import Caption, Method, Sampling
from capjax.evaluate.figures import attention_figure, save_figure, save_picture, word_overlay
from capjax.load import load
from capjax.workdir import WorkdirError


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m capjax.caption", description=__doc__.split("\n")[0]
    )
    parser.add_argument("images", nargs="+", help="image files, folders of them, or http(s) URLs")
    parser.add_argument("--workdir", required=True, help="folder of a trained run")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    parser.add_argument("--beam_size", type=int, help="beams; 1 is greedy (default: the run's)")
    parser.add_argument("--length_penalty", type=float, help="default: the run's")
    parser.add_argument("--max_length", type=int, help="tokens at most (default: the run's)")
    parser.add_argument("--temperature", type=float, help="sample at this temperature instead")
    parser.add_argument("--seed", type=int, default=0, help="of --temperature's samples")
    parser.add_argument("--batch_size", type=int, help="images at once (default: the run's)")
    parser.add_argument("--attention", metavar="DIR", help="draw where each word looked, into DIR")
    parser.add_argument(
        "--overlay",
        type=_words,
        default=(),
        metavar="WORDS",
        help="with --attention, also lay single words' maps over the picture: first, last or their "
        "numbers, with commas",
    )
    parser.add_argument(
        "--compilation_cache",
        default=build.COMPILATION_CACHE,
        help="where JAX keeps compiled programs (default: %(default)s); empty keeps none",
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    arguments = parser.parse_args(argv)
    if arguments.overlay and not arguments.attention:
        parser.error("--overlay needs --attention DIR to write into")
    return arguments


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    for word in words:
        if word not in ("first", "last") and not (word.isdecimal() and int(word) > 0):
            raise argparse.ArgumentTypeError(
                f"{word!r} is no word: it may be first, last or a number from 1 on"
            )
    return words


def choose_method(arguments: argparse.Namespace, config: ConfigDict) -> Method:
    """The run's decoding settings, with those of the command line over them.

    Raises:
      ConfigError: settings that the run's model can't search with.
    """
    section = config.decoding.copy_and_resolve_references()
    given = {
        "num_beams": arguments.beam_size,
        "length_penalty": arguments.length_penalty,
        "max_length": arguments.max_length,
    }
    section.update({field: value for field, value in given.items() if value is not None})
    checks.check_decoding(section, config)
    if arguments.temperature is None:
        return build.beam_search(section)
    if arguments.temperature < 0:
        raise build.ConfigError(f"--temperature {arguments.temperature} must be 0 or more")
    return Sampling(arguments.temperature, section.max_length, arguments.seed)


def main(argv: list[str] | None = None) -> int:
    """Captions what can be read; returns 1 where an input could not be."""
    arguments = parse_arguments(argv)
    build.compilation_cache(arguments.compilation_cache)
    try:
        names = expand(arguments.images)
        run = load(arguments.workdir, arguments.checkpoint)
        method = choose_method(arguments, run.config)
    except (build.ConfigError, WorkdirError, ImageError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    size = arguments.batch_size or run.config.evaluation.batch_size
    read = functools.partial(_read, resize=build.resize(run.config.dataset))
    failures = 0
    progress = tqdm(total=len(names), unit="image", disable=None)
    for start in range(0, len(names), size):
        part = names[start : start + size]
        with concurrent.futures.ThreadPoolExecutor(run.config.dataset.num_threads) as pool:
            pictures = list(pool.map(read, part))
        good = [(n, p) for n, p in zip(part, pictures, strict=True) if isinstance(p, _Picture)]
        captions = run.caption(
            [picture.pixels for _, picture in good],
            method=method,
            attention=bool(arguments.attention),
            batch_size=size,
        )
        for error in (p for p in pictures if isinstance(p, ImageError)):
            print(f"error: {error}", file=sys.stderr)
            failures += 1
        for (name, picture), caption in zip(good, captions, strict=True):
            progress.write(_line(name, caption, arguments.json), file=sys.stdout)
            if arguments.attention:
                _draw(name, picture.thumbnail, caption, arguments)
        sys.stdout.flush()
        progress.update(len(part))
    progress.close()
    return 1 if failures else 0


def _draw(name: str, picture: np.ndarray, caption: Caption, arguments: argparse.Namespace) -> None:
    """Writes the attention of a caption; words that it does not have are left out."""
    stem = os.path.join(arguments.attention, _figure_stem(name))
    save_figure(attention_figure(picture, caption), f"{stem}.png")
    for word in arguments.overlay:
        index = {"first": 0, "last": len(caption.words) - 1}.get(word)
        index = int(word) - 1 if index is None else index
        if 0 <= index < len(caption.words):
            save_picture(word_overlay(picture, caption, index), f"{stem}-{word}.png")


class _Picture(NamedTuple):
    """What is kept of a photograph: the model's pixels, and a small one to draw on."""

    pixels: np.ndarray
    thumbnail: np.ndarray


def _read(name: str, resize: Resize) -> _Picture | ImageError:
    try:
        picture = load_image(download(name) if is_url(name) else name, name=name)
        pixels = load_pixels(picture, resize, name=name)
    except ImageError as error:
        return error
    picture.thumbnail((448, 448))
    return _Picture(pixels, np.asarray(picture))


def _line(name: str, caption: Caption, as_json: bool) -> str:
    if not as_json:
        return f"{name}\t{caption.text}"
    values = {"image": name, "caption": caption.text, "log_prob": caption.log_prob}
    values.update(score=caption.score, finished=caption.finished)
    return json.dumps(values, ensure_ascii=False)


def _figure_stem(name: str) -> str:
    """A file name that tells a person which picture it is, and no two pictures share."""
    stem = re.sub(r"[^\w.-]+", "_", os.path.basename(name.rstrip("/")))[:80]
    return f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    sys.exit(main())
