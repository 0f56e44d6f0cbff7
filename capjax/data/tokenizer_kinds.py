"""Trains the tokenizer of a config: of words, of characters, or of pieces of words."""

import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from capjax.data.tokenizer import (
    SPECIAL_TOKENS,
    UNK,
    Tokenizer,
    train_word_tokenizer,
    word_normalizer,
)
from capjax.files.text import well_formed
from capjax.parts.types import Count, CountOrZero

_logger = logging.getLogger(__name__)

# Scripts that are written without spaces between words.
_SPACELESS = {
    "Chinese or Japanese": r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]",
    "Thai": r"[\u0e00-\u0e7f]",
    "Lao": r"[\u0e80-\u0eff]",
    "Burmese": r"[\u1000-\u109f]",
    "Khmer": r"[\u1780-\u17ff]",
}
# Words of these scripts are shorter on average, and captions without spaces longer.
_LONG_WORD = 7
_LOOKED_AT = 1000


def train(
    captions: Iterable[str],
    *,
    kind: Literal["words", "characters", "bpe"] = "words",
    min_count: Count = 1,
    max_words: CountOrZero = 0,
    alphabetic_only: bool = False,
) -> Tokenizer:
    """Trains a tokenizer; all kinds normalise text as `train_word_tokenizer` does.

    Warns where kind is "words" and the captions have no spaces between their words.

    Args:
      captions: the captions of the train split only.
      kind: "words" between spaces; "characters" with spaces among them; or "bpe", pieces of words
        by byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909), each with
        the space before it.
      min_count: less frequent words or characters become unk; pairs less frequent are not merged.
      max_words: most tokens, without special ones; 0 for no limit, which "bpe" needs.
      alphabetic_only: see `train_word_tokenizer`; only for "words".

    Raises:
      ValueError: a limit is out of range, or nothing is left.
    """
    if kind == "words":
        captions = iter(captions)
        first = list(itertools.islice(captions, _LOOKED_AT))
        warn_without_spaces(first)
        return train_word_tokenizer(
            itertools.chain(first, captions),
            min_count=min_count,
            max_words=max_words,
            alphabetic_only=alphabetic_only,
        )
    if alphabetic_only:
        raise ValueError(f"alphabetic_only=True is for kind='words', and not for {kind!r}")
    # Single spaces between words and none around them, so that decoded text encodes to itself.
    normalizer = normalizers.Sequence(
        [word_normalizer(False), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    lines = [normalizer.normalize_str(well_formed(text)) for text in captions]
    if not any(lines):
        raise ValueError("the captions have no words")
    train_kind = _train_characters if kind == "characters" else _train_bpe
    backend = train_kind(lines, min_count, max_words)
    backend.normalizer = normalizer
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def _characters(lines: Sequence[str], min_count: int, most: int) -> list[str]:
    """The characters to know, by descending count, ties in the order of Unicode."""
    counts = Counter(character for line in lines for character in line)
    ranked = sorted((c for c in counts if counts[c] >= min_count), key=lambda c: (-counts[c], c))
    if not ranked:
        raise ValueError(f"no character of the captions occurs {min_count} times or more")
    return ranked[: most or None]


def _train_characters(lines: Sequence[str], min_count: int, most: int) -> tokenizers.Tokenizer:
    tokens = (*SPECIAL_TOKENS, *_characters(lines, min_count, most))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return backend


def _train_bpe(lines: Sequence[str], min_count: int, most: int) -> tokenizers.Tokenizer:
    if not most:
        raise ValueError(
            "kind='bpe' needs max_words, its number of tokens, and 0 is none; 4000 is usual"
        )
    # A word with the space before it; of text without spaces the whole of it.
    split = pre_tokenizers.Split(Regex(" ?[^ ]+"), "isolated")
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = split
    # Without a given alphabet the trainer breaks ties of characters at random.
    alphabet = _characters(lines, min_count, most)
    trainer = trainers.BpeTrainer(
        vocab_size=most,
        min_frequency=min_count,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(lines, trainer)
    learned = json.loads(learner.to_str())["model"]
    # The special tokens are vocabulary entries, as in `train_word_tokenizer`.
    ranked = sorted(learned["vocab"], key=learned["vocab"].get)
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *ranked))}
    merges = [tuple(pair) for pair in learned["merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=UNK))
    backend.pre_tokenizer = split
    return backend


def warn_without_spaces(captions: Sequence[str]) -> None:
    """Warns of first captions that are mostly of one script without spaces, and of long words."""
    text = " ".join(map(well_formed, captions[:_LOOKED_AT]))
    letters = sum(map(str.isalpha, text))
    for script, pattern in _SPACELESS.items():
        found = len(re.findall(pattern, text))
        if 2 * found > letters and found > _LONG_WORD * len(text.split()):
            _logger.warning(
                "the captions are %s without spaces, so that each is one word or a few: set "
                "config.tokenizer.kind to 'characters' or 'bpe', or put spaces between words",
                script,
            )
