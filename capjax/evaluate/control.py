"""What captions may and must say, in words: settings of all decoding methods.

Words become tokens by the tokenizer of a run. `<50256>` in a text is the token of that number, for
settings of published captioners, which are numbers.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from capjax.data.tokenizer import Tokenizer
from capjax.decode.processors import Processors
from capjax.decode.trie import Trie
from capjax.files.errors import ReportedError
from capjax.files.text import first_few

_NUMBERS = re.compile(r"(<\d+>\s*)+")
# In the names of result files.
_LABELS = {
    "prompt": "prompt",
    "repetition_penalty": "repeat",
    "no_repeat_ngram_size": "ngram",
    "min_length": "min",
    "min_new_tokens": "minnew",
    "bad_words": "bad",
    "suppress": "suppress",
    "suppress_first": "nofirst",
    "forced_first": "first",
    "forced_last": "last",
    "bad_endings": "ends",
    "allowed": "only",
}
# Fields of `Processors` that have another name here.
_THEIRS = {
    "bad_words_ids": "bad_words",
    "suppress_tokens": "suppress",
    "begin_suppress_tokens": "suppress_first",
    "forced_bos_token_id": "forced_first",
    "forced_eos_token_id": "forced_last",
}
# Longer labels of words, or of all settings, are written as hashes.
_LONGEST_WORDS, _LONGEST = 24, 90


class SettingError(ReportedError, ValueError):
    """Decoding settings that can't be met; the message begins with the name of one."""


@dataclasses.dataclass(frozen=True)
class Control:
    """Logits processors by the names and the meaning that they have in transformers, with words.

    Lengths are in tokens; `min_length` counts the start token and the prompt. A word or phrase that
    a vocabulary of pieces has twice, at the beginning of a text and after a space, means both.

    Attributes:
      prompt: the words that every caption begins with.
      repetition_penalty: above 1 makes words that occurred, in the prompt too, less likely.
      no_repeat_ngram_size: no sequence of so many tokens occurs twice; 0 allows all.
      min_length: fewest tokens before the end token, with start token and prompt.
      min_new_tokens: fewest tokens before the end token, without these.
      bad_words: words and phrases that may not occur.
      suppress: words that may not occur.
      suppress_first: words that a caption may not begin with.
      forced_first: the word that each caption begins with; "" forces none.
      forced_last: the word at the length limit; "" forces none.
      bad_endings: words that a caption may not end with, unless the length limit cuts it.
      allowed: the only captions that there may be, with the prompt; none for any.
    """

    prompt: str = ""
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_length: int = 0
    min_new_tokens: int = 0
    bad_words: tuple[str, ...] = ()
    suppress: tuple[str, ...] = ()
    suppress_first: tuple[str, ...] = ()
    forced_first: str = ""
    forced_last: str = ""
    bad_endings: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Part of the name of result files: the settings that change something."""
        return label_of(self, _LABELS)

    def prompt_ids(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """The tokens of the prompt.

        Raises:
          SettingError: it has a word outside the vocabulary.
        """
        return _forms(tokenizer, "prompt", self.prompt)[0] if self.prompt else ()

    def processors(self, tokenizer: Tokenizer) -> Processors:
        """The processors of these settings.

        Raises:
          SettingError: a word is outside the vocabulary, or has several tokens where one is needed.
        """
        phrases = [form for text in self.bad_words for form in _forms(tokenizer, "bad_words", text)]
        allowed = None
        if self.allowed:
            texts = [_forms(tokenizer, "allowed", text)[0] for text in self.allowed]
            allowed = Trie.of(
                [(*ids, tokenizer.eos_id) for ids in texts],
                eos_id=tokenizer.eos_id,
                vocab_size=tokenizer.vocab_size,
            )
        return Processors(
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            bad_words_ids=tuple(phrases),
            min_length=self.min_length,
            min_new_tokens=self.min_new_tokens,
            forced_bos_token_id=_token(tokenizer, "forced_first", self.forced_first),
            forced_eos_token_id=_token(tokenizer, "forced_last", self.forced_last),
            suppress_tokens=_tokens(tokenizer, "suppress", self.suppress),
            begin_suppress_tokens=_tokens(tokenizer, "suppress_first", self.suppress_first),
            bad_endings=_tokens(tokenizer, "bad_endings", self.bad_endings),
            allowed=allowed,
        )

    def check(self, tokenizer: Tokenizer, max_length: int) -> None:
        """Raises SettingError, beginning with a field's name, for what can't be met."""
        prompt, processors = self.prompt_ids(tokenizer), self.processors(tokenizer)
        if 1 + len(prompt) >= max_length:
            raise SettingError(
                f"prompt={self.prompt!r} has {len(prompt)} tokens, and max_length={max_length} "
                "must leave room for the start token and one more"
            )
        forced = {
            "forced_first": processors.forced_bos_token_id,
            "forced_last": processors.forced_eos_token_id,
        }
        for name, token in forced.items():
            if token in tokenizer.banned_ids:
                raise SettingError(
                    f"{name}={getattr(self, name)!r} is a token that the model never says"
                )
        try:
            processors.check(
                vocab_size=tokenizer.vocab_size,
                eos_id=tokenizer.eos_id,
                max_length=max_length,
                prompt=prompt,
            )
        except ValueError as error:
            raise SettingError(in_words(str(error))) from error


# Changes nothing.
UNCONTROLLED = Control()


def in_words(message: str) -> str:
    """A message of `Processors` with the names of the fields here."""
    for theirs, ours in _THEIRS.items():
        message = re.sub(rf"\b{theirs}\b", ours, message)
    return message


def phrase_ids(
    tokenizer: Tokenizer, field: str, texts: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """The tokens of words or phrases inside a caption.

    Raises:
      SettingError: a text has a word outside the vocabulary; begins with the field's name.
    """
    return tuple(_forms(tokenizer, field, text)[-1] for text in texts)


def label_of(settings: Any, names: Mapping[str, str]) -> str:
    """Part of a file's name for the fields of a dataclass that are not at their defaults.

    Args:
      settings: the dataclass.
      names: short names of the fields that have a part.
    """
    label = "".join(
        f"-{names[field.name]}{_plain(getattr(settings, field.name))}"
        for field in dataclasses.fields(settings)
        if field.name in names and getattr(settings, field.name) != field.default
    )
    return label if len(label) <= _LONGEST else f"-set{_digest(label)}"


def _plain(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{value:g}"
    words = [value] if isinstance(value, str) else value
    text = "+".join(words).replace(" ", "_")
    simple = all(re.fullmatch(r"[^\W_]+( [^\W_]+)*", word) for word in words)
    return text if simple and len(text) <= _LONGEST_WORDS else _digest(repr(words))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def _forms(tokenizer: Tokenizer, field: str, text: str) -> list[tuple[int, ...]]:
    """The tokens of a text at the beginning of a caption and, where they differ, inside it."""
    if _NUMBERS.fullmatch(text):
        ids = tuple(map(int, re.findall(r"\d+", text)))
        if max(ids) >= tokenizer.vocab_size:
            raise SettingError(f"{field} has {text!r}: there are {tokenizer.vocab_size} tokens")
        return [ids]
    first = tokenizer.encode(text)
    if unknown := tokenizer.unknown(text, len(first)):
        raise SettingError(
            f"{field} has {first_few([repr(word) for word in unknown])}, which the vocabulary of "
            f"this run has not: choose among its {tokenizer.vocab_size} tokens"
        )
    if not first:
        raise SettingError(f"{field} has {text!r}, which has no word")
    before = tokenizer.encode("a")
    inside = tokenizer.encode(f"a {text}")[len(before) :]
    return [*dict.fromkeys((tuple(first), tuple(inside)))]


def _tokens(tokenizer: Tokenizer, field: str, words: Sequence[str]) -> tuple[int, ...]:
    """The token of each word, in both its forms where it has two."""
    found: list[int] = []
    for word in words:
        forms = _forms(tokenizer, field, word)
        single = [form[0] for form in forms if len(form) == 1]
        if not single:
            raise SettingError(
                f"{field} has {word!r}, of {len(forms[0])} tokens, and takes words of one: "
                "bad_words takes phrases"
            )
        found += single
    return tuple(dict.fromkeys(found))


def _token(tokenizer: Tokenizer, field: str, word: str) -> int | None:
    if not word:
        return None
    return _tokens(tokenizer, field, [word])[0 if field == "forced_first" else -1]
