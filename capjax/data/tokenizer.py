"""Captions to token ids and back, by a `tokenizers.Tokenizer`.

The saved `tokenizer.json` has all normalisation and splitting: loading it needs no other file and
runs no code. Only this module defines pad, bos, eos and unk.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from capjax.data.tokenizer_file import parse_backend, raised, read_backend
from capjax.files.atomic import write_atomic
from capjax.files.text import well_formed
from capjax.parts.types import Count, CountOrZero

PAD, BOS, EOS, UNK = SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
_ENCODED_AT_ONCE = 10_000

# The special tokens of published tokenizers, as pad, bos, eos and unk; the first that there are.
_PUBLISHED = (
    # GPT-2's only one, which its checkpoints use in every role.
    ("<|endoftext|>",) * 4,
    # BLIP's, which has one more than BERT's.
    ("[PAD]", "[DEC]", "[SEP]", "[UNK]"),
    ("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
)


# Letters of a token. A caption has as many tokens as a decoder has positions.
_LONGEST = 10_000


class Tokenizer:
    """A tokenizer whose special tokens cannot be spelled out in a caption.

    Attributes:
      pad_id, bos_id, eos_id, unk_id: the special ids: 0, 1, 2, 3 at word level; for a GPT-2
        tokenizer all four are the id of "<|endoftext|>", for BERT's those of "[PAD]", "[CLS]" (or
        BLIP's "[DEC]"), "[SEP]" and "[UNK]".
      vocab_size: V, the number of ids, with the special ones.
      special_ids: those that `decode` leaves out.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        """Wraps `backend` and switches off its padding and truncation.

        Raises:
          ValueError: it has neither capjax's special tokens nor published ones, or its ids have
            gaps.
        """
        known = ([backend.token_to_id(t) for t in kind] for kind in (SPECIAL_TOKENS, *_PUBLISHED))
        ids = next((ids for ids in known if None not in ids), None)
        if ids is None:
            gpt2, _, bert = _PUBLISHED
            raise ValueError(
                f"the tokenizer has neither the special tokens {', '.join(SPECIAL_TOKENS)} "
                f"nor GPT-2's {gpt2[0]} nor BERT's {', '.join(bert)}"
            )
        vocabulary = backend.get_vocab()
        if sorted(vocabulary.values()) != list(range(backend.get_vocab_size())):
            raise ValueError(
                f"the ids of the tokenizer's {backend.get_vocab_size()} tokens must be 0, 1, 2, "
                "... each once"
            )
        if (longest := max(map(len, vocabulary))) > _LONGEST:
            raise ValueError(f"the tokenizer has a token of {longest} letters: damaged")
        backend.no_padding()
        backend.no_truncation()
        if getattr(backend.model, "dropout", None):  # It would split a caption by chance.
            backend.model.dropout = None
        # A special token spelled out in a caption is encoded as text.
        backend.encode_special_tokens = True
        self._backend = backend
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = ids
        self.vocab_size = backend.get_vocab_size()
        added = backend.get_added_tokens_decoder().items()
        self.special_ids = frozenset((*ids, *(token for token, about in added if about.special)))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads a `tokenizer.json`, of capjax or an existing one such as GPT-2's.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is damaged, not a tokenizer, or lacks special tokens.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {path}: train one with train_word_tokenizer(...).save(path), "
                "or name the tokenizer.json of a run"
            )
        try:
            backend = read_backend(path)
        except OSError as error:
            raise ValueError(f"{path} can't be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path} is not a readable tokenizer.json: {error}") from error
        try:
            return cls(backend)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, text: str) -> "Tokenizer":
        """Reads the text of a `tokenizer.json`; raises ValueError as `load`."""
        return cls(parse_backend(text))

    def save(self, path: str | os.PathLike) -> None:
        """Writes `tokenizer.json` atomically; equal tokenizers write equal bytes."""
        write_atomic(path, self.text.encode("utf-8"))

    @property
    def text(self) -> str:
        """The text of the saved file."""
        return self._backend.to_str(pretty=True)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the saved form."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Sorted ids that decoding must not emit: pad, bos and unk.

        A published tokenizer bans nothing, as its model was trained and is used elsewhere.
        """
        if self._backend.token_to_id(PAD) != self.pad_id:
            return ()
        return tuple(sorted((self.pad_id, self.bos_id, self.unk_id)))

    def encode(self, text: str) -> list[int]:
        """The ids of a caption, without special ones except unk."""
        with raised():
            return self._backend.encode(well_formed(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many captions, on several threads."""
        found = []
        # The library's encodings are far larger than the ids, so not all are made at once.
        for start in range(0, len(texts), _ENCODED_AT_ONCE):
            part = list(map(well_formed, texts[start : start + _ENCODED_AT_ONCE]))
            with raised():
                encodings = self._backend.encode_batch_fast(part, add_special_tokens=False)
            found += [encoding.ids for encoding in encodings]
        return found

    def unknown(self, text: str, most: int) -> list[str]:
        """The pieces among a caption's first `most` that are encoded as unk, normalised."""
        text = self._normalise(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        pairs = list(zip(encoding.ids, encoding.offsets, strict=True))[:most]
        return [text[slice(*place)] for token, place in pairs if token == self.unk_id]

    def split(self, text: str) -> list[str]:
        """The normalised pieces of a caption before the vocabulary is applied."""
        text = self._normalise(text)
        if self._backend.pre_tokenizer is None:
            return [text] if text else []
        return [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]

    def _normalise(self, text: str) -> str:
        text, normalizer = well_formed(text), self._backend.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (without bos) up to the first eos; special tokens are skipped.

        Raises:
          ValueError: an id before the eos is outside the vocabulary.
        """
        kept = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id {token} is outside of the {self.vocab_size} ids")
            if token not in self.special_ids:
                kept.append(token)
        with raised():
            return self._backend.decode(kept, skip_special_tokens=False)

    def word(self, token: int) -> str:
        """One id as text for figures, a special one by its name.

        Raises:
          ValueError: the id is outside the vocabulary.
        """
        token = int(token)
        if token in self.special_ids:
            return self._backend.id_to_token(token)
        return self.decode([token])


def train_word_tokenizer(
    captions: Iterable[str],
    *,
    min_count: Count = 1,
    max_words: CountOrZero = 0,
    alphabetic_only: bool = False,
) -> Tokenizer:
    """Trains a word-level tokenizer: lower case, without punctuation.

    As in the common captioning tutorials, punctuation is removed without leaving a space
    ("t-shirt" becomes "tshirt"), and so are symbols and emoji. Letters, combining marks and digits
    of any script stay. Composed and decomposed forms of an accented letter are one word (NFC).

    Args:
      captions: the captions of the train split only.
      min_count: less frequent words become unk, as do those of more than 10,000 letters.
      max_words: most words, without special tokens; 0 for no limit.
      alphabetic_only: drops words of one letter and words with other characters than letters,
        here and when encoding, as the Keras article on Flickr8k does ("a" and "2" are dropped).

    Returns:
      The tokenizer; ids are by descending count, ties in alphabetical order.

    Raises:
      ValueError: a limit is out of range, or no word is left.
    """
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, not {min_count}")
    if max_words < 0:
        raise ValueError(f"max_words must be at least 0, not {max_words}")
    normalizer = word_normalizer(alphabetic_only)
    lines = (normalizer.normalize_str(well_formed(text)) for text in captions)
    counts = Counter(w for line in lines for w in line.split() if len(w) <= _LONGEST)
    ranked = sorted((w for w in counts if counts[w] >= min_count), key=lambda w: (-counts[w], w))
    if not ranked:
        raise ValueError(f"no word of the captions occurs {min_count} times or more")
    vocabulary = {w: i for i, w in enumerate((*SPECIAL_TOKENS, *ranked[: max_words or None]))}
    # The special tokens are vocabulary entries, not "added tokens", which are searched for in the
    # text. No normalised word equals one, because they have brackets.
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend)


def word_normalizer(alphabetic_only: bool) -> normalizers.Normalizer:
    """Normalises text to words between single spaces; idempotent on words."""
    steps = [
        normalizers.NFC(),
        normalizers.Lowercase(),
        # Control characters, joiners and unassigned code points.
        normalizers.Replace(Regex(r"[^\p{L}\p{M}\p{N}\p{P}\p{S}\s]"), ""),
        # A symbol is removed with its combining marks, such as an emoji's variation selector.
        normalizers.Replace(Regex(r"[\p{P}\p{S}]\p{M}*"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        # Combining marks without a letter would be invisible words.
        normalizers.Replace(Regex(r"(?<!\S)\p{M}+"), ""),
        # A removed character may have separated a letter from its accent.
        normalizers.NFC(),
    ]
    if alphabetic_only:
        letters = r"(?:\p{L}\p{M}*){2,}(?!\S)"
        steps.append(normalizers.Replace(Regex(rf"(?<!\S)(?!{letters})\S+"), ""))
    return normalizers.Sequence(steps)
