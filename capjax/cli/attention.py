"""The attention flags of `capjax caption`, and the figures that they draw."""

import argparse
import functools
from typing import TYPE_CHECKING

from capjax.config.errors import ConfigError

if TYPE_CHECKING:
    from capjax.evaluate.stream import Answer
    from capjax.models.contract import Decoder
    from capjax.models.ensemble import EnsembleDecoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--attention", metavar="DIR", help="draw each word's attention into DIR")
    parser.add_argument(
        "--views",
        type=_views,
        metavar="VIEWS",
        help="rows of the figure, separated by commas: overlay (default), the heat map on the "
        "image; heat, the map alone; patches, the image with its patches weighted. Each map is "
        "scaled by its own maximum, and a class token is left out",
    )
    parser.add_argument(
        "--attention_by",
        choices=["mean", "layer", "head"],
        help="maps that --attention draws: one per word, the mean over layers and heads (mean, the "
        "default); one per word and layer; or one per word, layer and head, in a figure per word",
    )
    parser.add_argument(
        "--overlay",
        type=_words,
        default=(),
        metavar="WORDS",
        help="with --attention, also draw these words' maps over the image: first, last or word "
        "numbers, separated by commas",
    )
    parser.add_argument(
        "--attended",
        action="store_true",
        help="also caption the attended image: the model's pixels, each patch times its attention, "
        "averaged over words, layers and heads and divided by its maximum. The caption is a second "
        "line, 'attended: ...', or a field of the JSON; --attention saves the attended image, too",
    )


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exits with status 2 where a flag is given without one that it needs."""
    for flag in ("overlay", "views", "attention_by"):
        if getattr(arguments, flag) and not arguments.attention:
            parser.error(f"--{flag} needs --attention DIR to write into")


def check_run(arguments: argparse.Namespace, decoder: "Decoder | EnsembleDecoder") -> None:
    """Checks the flags against the attention of a run's decoder.

    Raises:
      ConfigError: the decoder lacks the attention; the message names the flag.
    """
    if arguments.attention_by in ("layer", "head") and decoder.attention_maps == 1:
        raise ConfigError(
            f"--attention_by {arguments.attention_by}: this run's decoder has one map per word; "
            "remove the flag"
        )
    if arguments.attended and not decoder.has_attention:
        raise ConfigError(
            "--attended: this run's decoder has no attention (decoder.attention is 'none', or the "
            "members of an ensemble see other parts of an image); remove the flag"
        )


def draw(arguments: argparse.Namespace, answer: "Answer") -> None:
    """Draws the attention of an answer's caption and of its attended image's caption, if any."""
    # Imported here, because few command lines draw.
    from capjax.evaluate.attention_figures import file_stem, save_attention
    from capjax.evaluate.figures import save_picture

    if answer.picture is None or answer.caption is None:
        return
    save = functools.partial(
        save_attention,
        views=arguments.views or ("overlay",),
        by=arguments.attention_by or "mean",
        words=arguments.overlay,
    )
    stem = file_stem(arguments.attention, answer.name)
    save(stem, answer.picture, answer.caption)
    if answer.attended:
        pixels, caption = answer.attended
        save_picture(pixels, f"{stem}-attended-picture.png")
        save(f"{stem}-attended", pixels, caption)


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    for word in words:
        if word not in ("first", "last") and not (word.isdecimal() and int(word) > 0):
            raise argparse.ArgumentTypeError(
                f"{word!r} must be first, last or a word's number, from 1"
            )
    return words


def _views(text: str) -> tuple[str, ...]:
    from capjax.evaluate.attention_maps import VIEWS  # Imported here: --help needs no JAX.

    views = tuple(text.split(","))
    for view in views:
        if view not in VIEWS or views.count(view) > 1:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be some of {', '.join(VIEWS)}, each once, separated by commas"
            )
    return views
