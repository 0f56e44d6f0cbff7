"""The flags of decoding: fields of `config.decoding`, by whose names they go."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capjax.config.sections import ABOUT

if TYPE_CHECKING:
    from capjax.evaluate.methods import Method
    from capjax.run.load import Run


def positive(text: str) -> int:
    """Parses a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of 1 or more")
    return int(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers with commas between") from error


def _lines(file: str) -> tuple[str, ...]:
    try:
        with open(file, encoding="utf-8-sig") as stream:
            return tuple(line.strip() for line in stream if line.strip())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{file} can't be read: {error}") from error


# By name: type and metavar.
_FLAGS: dict[str, tuple[Callable[[str], Any], str | None]] = {
    "method": (str, "NAME"),
    "num_captions": (positive, "N"),
    "num_beams": (int, "K"),
    "length_penalty": (float, "X"),
    "length_normalization": (str, "NAME"),
    "early_stopping": (str, "WHEN"),
    "num_beam_groups": (positive, "N"),
    "diversity_penalty": (float, "X"),
    "must_include": (_words, "WORDS"),
    "max_length": (int, "N"),
    "temperature": (float, "X"),
    "top_k": (positive, "K"),
    "top_p": (float, "P"),
    "min_p": (float, "P"),
    "typical_p": (float, "P"),
    "seed": (int, "N"),
    "candidates": (str, "NAME"),
    "num_samples": (positive, "N"),
    "rewards": (_words, "NAMES"),
    "reward_weights": (_numbers, "NUMBERS"),
    "prompt": (str, "TEXT"),
    "repetition_penalty": (float, "X"),
    "no_repeat_ngram_size": (int, "N"),
    "min_length": (int, "N"),
    "min_new_tokens": (int, "N"),
    "bad_words": (_words, "WORDS"),
    "suppress": (_words, "WORDS"),
    "suppress_first": (_words, "WORDS"),
    "forced_first": (str, "WORD"),
    "forced_last": (str, "WORD"),
    "bad_endings": (_words, "WORDS"),
    "allowed": (_lines, "FILE"),
}
NAMES = tuple(_FLAGS)
_ALSO = {"num_beams": "beam_size", "rewards": "reward"}
_FILE = "text file with a line for each of "


def method_of(given: argparse.Namespace, run: "Run") -> "Method":
    """The decoding method of a command line, as `choose_method` checks it.

    Raises:
      ConfigError: the run can't decode so.
    """
    return run.method(**{name: getattr(given, name) for name in NAMES})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; without them a setting is the model's."""
    group = parser.add_argument_group("decoding", "Defaults are the model's settings.")
    for name, (kind, metavar) in _FLAGS.items():
        text = _FILE + ABOUT[name] if kind is _lines else ABOUT[name]
        names = [f"--{each}" for each in (name, _ALSO.get(name)) if each]
        group.add_argument(*names, type=kind, metavar=metavar, help=text)
