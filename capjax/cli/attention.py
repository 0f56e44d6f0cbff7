"""What `python -m capjax.caption` does with attention: its flags, and the files that it draws."""

import argparse
import functools

from capjax.config.errors import ConfigError
from capjax.evaluate.attention_figures import file_stem, save_attention
from capjax.evaluate.attention_maps import VIEWS
from capjax.evaluate.figures import save_picture
from capjax.evaluate.stream import Answer
from capjax.models.contract import Decoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument("--attention", metavar="DIR", help="draw where each word looked, into DIR")
    parser.add_argument(
        "--views",
        type=_views,
        metavar="VIEWS",
        help="what --attention draws, with commas: overlay (default), the heat map on the picture; "
        "heat, the map alone; patches, the picture with its patches weighted. Each map is scaled "
        "by its own maximum, and a class token is left out",
    )
    parser.add_argument(
        "--attention_by",
        choices=["mean", "layer", "head"],
        help="what has a map of its own with --attention: a word, over all layers and heads (mean, "
        "the default); a word and layer; or a word, layer and head, in a figure a word",
    )
    parser.add_argument(
        "--overlay",
        type=_words,
        default=(),
        metavar="WORDS",
        help="with --attention, also lay single words' maps over the picture: first, last or their "
        "numbers, with commas",
    )
    parser.add_argument(
        "--attended",
        action="store_true",
        help="also caption what each caption saw: the model's pixels, each patch times its "
        "attention, averaged over words, layers and heads, over its maximum. The caption is a "
        "second line, 'attended: ...', or a field of the JSON; --attention saves the picture, too",
    )


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with wrong usage where a flag lacks another."""
    for flag in ("overlay", "views", "attention_by"):
        if getattr(arguments, flag) and not arguments.attention:
            parser.error(f"--{flag} needs --attention DIR to write into")


def check_run(arguments: argparse.Namespace, decoder: Decoder) -> None:
    """Refuses what a run's decoder has no attention for.

    Raises:
      ConfigError: naming the flag.
    """
    if arguments.attention_by in ("layer", "head") and decoder.attention_maps == 1:
        raise ConfigError(
            f"--attention_by {arguments.attention_by}: this run's decoder has one map a word; "
            "leave the flag out"
        )
    if arguments.attended and not decoder.has_attention:
        raise ConfigError(
            "--attended: this run's decoder looks nowhere (decoder.attention is 'none'); leave the "
            "flag out"
        )


def draw(arguments: argparse.Namespace, answer: Answer) -> None:
    """Draws the attention of an answer that has a caption, and of what its caption saw."""
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
                f"{word!r} is no word: it may be first, last or a number from 1 on"
            )
    return words


def _views(text: str) -> tuple[str, ...]:
    views = tuple(text.split(","))
    for view in views:
        if view not in VIEWS or views.count(view) > 1:
            raise argparse.ArgumentTypeError(
                f"{text!r}: give some of {', '.join(VIEWS)}, each once, with commas"
            )
    return views
