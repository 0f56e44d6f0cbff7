"""The flags of decoding: fields of `config.decoding`, by whose names they go."""

import argparse
from collections.abc import Callable
from typing import Any


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


# By name: type, metavar and help.
_FLAGS: dict[str, tuple[Callable[[str], Any], str | None, str]] = {
    "method": (str, "NAME", "beam, sample or consensus; other flags imply it"),
    "num_captions": (positive, "N", "captions of each image, the best first"),
    "num_beams": (int, "K", "beams; 1 is greedy"),
    "length_penalty": (float, "X", "exponent of the length in a beam's score"),
    "length_normalization": (str, "NAME", "that length: power or gnmt"),
    "early_stopping": (str, "WHEN", "true, false, or never: until no better one is possible"),
    "num_beam_groups": (positive, "N", "groups of beams that are to differ"),
    "diversity_penalty": (float, "X", "what it costs to take the word of another group"),
    "must_include": (_words, "WORDS", "words or phrases that must occur, with commas between"),
    "max_length": (int, "N", "most tokens, with start and end"),
    "temperature": (float, "X", "sample at this temperature instead; 0 is greedy"),
    "top_k": (positive, "K", "sample from the K likeliest tokens"),
    "top_p": (float, "P", "sample from the likeliest tokens that have this probability"),
    "min_p": (float, "P", "sample from tokens with at least this share of the likeliest one's"),
    "typical_p": (float, "P", "sample from the most typical tokens of this probability"),
    "seed": (int, "N", "seed of the samples"),
    "candidates": (str, "NAME", "consensus among: sample or beam"),
    "num_samples": (positive, "N", "consensus among so many samples"),
    "rewards": (_words, "NAMES", "consensus by the sum of: cider_d, bleu4, a registered reward"),
    "reward_weights": (_numbers, "NUMBERS", "the weight of each, with commas between"),
    "prompt": (str, "TEXT", "words that every caption begins with"),
    "repetition_penalty": (float, "X", "above 1 makes words that occurred less likely"),
    "no_repeat_ngram_size": (int, "N", "no sequence of N tokens occurs twice"),
    "min_length": (int, "N", "fewest tokens before the end, with start and prompt"),
    "min_new_tokens": (int, "N", "fewest tokens before the end, without these"),
    "bad_words": (_words, "WORDS", "words or phrases that may not occur, with commas between"),
    "suppress": (_words, "WORDS", "words of one token that may not occur"),
    "suppress_first": (_words, "WORDS", "words that no caption begins with"),
    "forced_first": (str, "WORD", "word that every caption begins with"),
    "forced_last": (str, "WORD", "word at the length limit"),
    "bad_endings": (_words, "WORDS", "words that no caption ends with: a,the,with"),
    "allowed": (_lines, "FILE", "text file of the only captions that there may be, a line each"),
}
NAMES = tuple(_FLAGS)
_ALSO = {"num_beams": "beam_size", "rewards": "reward"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; without them a setting is the model's."""
    group = parser.add_argument_group("decoding", "Defaults are the model's settings.")
    for name, (kind, metavar, text) in _FLAGS.items():
        names = [f"--{each}" for each in (name, _ALSO.get(name)) if each]
        group.add_argument(*names, type=kind, metavar=metavar, help=text)
