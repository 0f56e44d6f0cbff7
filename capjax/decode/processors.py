"""Logits processors with the names, meaning and order of transformers.

Shapes: see docs/architecture.md; L = max_length - 1 tokens are fed at most.

A processor takes scores float32 [B, K, V] of the next token and the history int32 [B, K, L] of fed
tokens, of which the first `length`, an int32 scalar, are real: start, prompt and generated ones.
Forbidden tokens get -inf, and nothing is renormalised. Scores are log-probabilities in a beam
search, and raw logits in greedy decoding and sampling. No processor raises a log-probability above
0, which the stopping rule of `capjax.decode.beam` relies on.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Decoders give banned tokens logits of about -1e9; no other log-probability is below this.
BANNED = -1e8


@dataclasses.dataclass(frozen=True)
class Processors:
    """The processors of a decoding, in the order of transformers' `_get_logits_processor` (v5).

    False if it changes nothing.

    Attributes:
      repetition_penalty: of tokens in the history, start and prompt included: negative scores are
        multiplied by it, others divided (Keskar et al. 2019, "CTRL"); 1 for none.
      no_repeat_ngram_size: length of the n-grams that must not repeat (Paulus et al. 2017, "A Deep
        Reinforced Model for Abstractive Summarization"); 0 for none.
      bad_words_ids: phrases that must not occur; the end token alone is ignored.
      min_length: the end token does not come before this many tokens, start and prompt included.
      min_new_tokens: the end token does not come before this many generated tokens; takes
        precedence over `min_length`.
      bad_endings: tokens that the end token does not follow. What the length limit cuts is cut.
      allowed: a `capjax.decode.trie.Trie` of the captions that are allowed; None for all.
      forced_bos_token_id: the first token after the start token.
      forced_eos_token_id: the last token at the length limit.
      suppress_tokens: tokens that must not occur.
      begin_suppress_tokens: tokens that must not be the first after the prompt, or after
        `forced_bos_token_id`.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    min_length: int = 0
    min_new_tokens: int = 0
    bad_endings: tuple[int, ...] = ()
    allowed: Any = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self != UNPROCESSED

    def __call__(
        self,
        history: jax.Array,
        length: jax.Array,
        scores: jax.Array,
        *,
        eos_id: int,
        max_length: int,
        prompt_length: int,
    ) -> jax.Array:
        """Processes scores [B, K, V]; see the module's docstring.

        Args:
          history: int32 [B, K, L], the tokens fed.
          length: int32 scalar, how many they are.
          scores: float32 [B, K, V].
          eos_id: the token that ends a caption.
          max_length: most tokens of a caption, counting start and prompt.
          prompt_length: tokens of the prompt, without the start token.
        """
        if self.repetition_penalty != 1:
            scores = penalize_repetition(history, length, scores, self.repetition_penalty)
        if self.no_repeat_ngram_size:
            scores = forbid_repeated_ngrams(history, length, scores, self.no_repeat_ngram_size)
        if phrases := [phrase for phrase in self.bad_words_ids if phrase != (eos_id,)]:
            scores = forbid_phrases(history, length, scores, phrases)
        if self.min_new_tokens:
            scores = forbid_end(scores, length < 1 + prompt_length + self.min_new_tokens, eos_id)
        elif self.min_length:
            scores = forbid_end(scores, length < self.min_length, eos_id)
        if self.bad_endings:
            last = lax.dynamic_index_in_dim(history, length - 1, axis=2, keepdims=False)
            scores = forbid_end(scores, jnp.isin(last, jnp.array(self.bad_endings)), eos_id)
        if self.allowed is not None:
            scores = jnp.where(self.allowed.allowed(history, length), scores, -jnp.inf)
        if self.forced_bos_token_id is not None:
            scores = force(scores, length == 1, self.forced_bos_token_id)
        if self.forced_eos_token_id is not None:
            scores = force(scores, length == max_length - 1, self.forced_eos_token_id)
        if self.suppress_tokens:
            scores = suppress(scores, True, self.suppress_tokens)
        if self.begin_suppress_tokens:
            forced = prompt_length == 0 and self.forced_bos_token_id is not None
            first = length == 1 + prompt_length + forced
            scores = suppress(scores, first, self.begin_suppress_tokens)
        return scores

    def process(
        self,
        logits: jax.Array,
        history: jax.Array,
        length: jax.Array,
        *,
        raw: bool,
        stuck: Callable[[jax.Array], jax.Array],
        eos_id: int,
        max_length: int,
        prompt_length: int,
    ) -> tuple[jax.Array, jax.Array]:
        """The model's log-probabilities and the processed scores, both [B, K, V].

        Args:
          logits: [B, K, V], of the next token.
          history: see `__call__`, as for the arguments that are not here.
          raw: whether to process logits, as in greedy decoding and sampling, or log-probabilities.
          stuck: from bool [B, K], True where some token is allowed, to [B, K] or [B, 1], True where
            the caption must then end. There, the end token alone keeps its score before processing,
            but none is outside `allowed`.
        """
        log_probs = own_log_probs(logits)
        before = jnp.where(log_probs == -jnp.inf, log_probs, logits) if raw else log_probs
        limits = {"eos_id": eos_id, "max_length": max_length, "prompt_length": prompt_length}
        scores = self(history, length, before, **limits)
        if self.allowed is not None:
            before = jnp.where(self.allowed.allowed(history, length), before, -jnp.inf)
        end = jnp.where(np.arange(logits.shape[-1]) == eos_id, before, -jnp.inf)
        stopped = stuck((scores > -jnp.inf).any(axis=-1))
        return log_probs, jnp.where(stopped[..., None], end, scores)

    def check(
        self, *, vocab_size: int, eos_id: int, max_length: int, prompt: Sequence[int]
    ) -> None:
        """Checks the settings by themselves and against those of the decoding.

        Raises:
          ValueError: a setting is out of range or impossible; the text starts with its name.
        """
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be above 0")
        for name in ("no_repeat_ngram_size", "min_length", "min_new_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if not all(self.bad_words_ids):
            raise ValueError("bad_words_ids has an empty phrase, which would forbid every caption")
        for name, ids in self._ids().items():
            if outside := [token for token in ids if not 0 <= token < vocab_size]:
                raise ValueError(
                    f"{name} has token {outside[0]}, outside the vocabulary of {vocab_size} tokens"
                )
        if self.min_length > max_length:
            raise ValueError(f"min_length={self.min_length} is above max_length={max_length}")
        room = max_length - 1 - len(prompt)
        if self.min_new_tokens > room:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} is more than the {room} tokens that "
                f"max_length={max_length} leaves after the start token and the prompt"
            )
        if self.forced_bos_token_id is not None and prompt:
            raise ValueError(
                f"forced_bos_token_id={self.forced_bos_token_id} follows the start token, where a "
                "prompt is; make it the first token of the prompt"
            )
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if getattr(self, name) in self.suppress_tokens:
                raise ValueError(f"{name}={getattr(self, name)} is one of suppress_tokens")
        single = {phrase[0] for phrase in self.bad_words_ids if len(phrase) == 1} - {eos_id}
        if len(single.union(self.suppress_tokens)) >= vocab_size:
            raise ValueError("suppress_tokens and bad_words_ids leave no token of the vocabulary")
        if self.allowed is not None and self.allowed.longest > max_length - 1:
            raise ValueError(
                f"allowed has a caption of {self.allowed.longest} tokens, with the end token, and "
                f"max_length={max_length} has room for {max_length - 1} after the start token"
            )
        if self.allowed is not None and not self.allowed.begins(prompt):
            raise ValueError("allowed has no caption that begins with the prompt")

    def _ids(self) -> dict[str, Collection[int]]:
        """The token ids of each field."""
        forced = ("forced_bos_token_id", "forced_eos_token_id")
        several = ("bad_endings", "suppress_tokens", "begin_suppress_tokens")
        ids: dict[str, Collection[int]] = {name: getattr(self, name) for name in several}
        ids["bad_words_ids"] = [*itertools.chain(*self.bad_words_ids)]
        for name in forced:
            ids[name] = [token for token in [getattr(self, name)] if token is not None]
        return ids


UNPROCESSED = Processors()


def own_log_probs(logits: jax.Array) -> jax.Array:
    """The model's float32 log-probabilities; -inf for tokens that its decoder bans."""
    log_probs = normalize(logits.astype(jnp.float32))
    return jnp.where(log_probs < BANNED, -jnp.inf, log_probs)


def normalize(scores: jax.Array) -> jax.Array:
    """The log-softmax over V; -inf where scores are -inf, even if all of them are."""
    log_sum = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    return jnp.where(scores == -jnp.inf, -jnp.inf, scores - log_sum)


def start_history(tokens: Sequence[int], shape: tuple[int, int], max_length: int) -> jax.Array:
    """int32 [B, K, max_length - 1] that begins with the given tokens; `shape` is (B, K)."""
    history = np.zeros(max_length - 1, np.int32)
    history[: len(tokens)] = tokens
    return jnp.broadcast_to(history, (*shape, max_length - 1))


def append(history: jax.Array, length: jax.Array, tokens: jax.Array) -> jax.Array:
    """The history with tokens int32 [B, K] at place `length`; nothing where it is full."""
    return history.at[:, :, length].set(tokens, mode="drop")


def penalize_repetition(
    history: jax.Array, length: jax.Array, scores: jax.Array, penalty: float
) -> jax.Array:
    """`RepetitionPenaltyLogitsProcessor`."""
    said = jnp.take_along_axis(scores, history, axis=-1, mode="clip")
    said = jnp.where(said < 0, said * penalty, said / penalty)
    return _put(scores, history, jnp.arange(history.shape[-1]) < length, said)


def forbid_repeated_ngrams(
    history: jax.Array, length: jax.Array, scores: jax.Array, size: int
) -> jax.Array:
    """`NoRepeatNGramLogitsProcessor`: forbids the last token of each n-gram that begins as now."""
    windows = history.shape[-1] + 1 - size
    if windows < 1:
        return scores
    # Before there are n - 1 tokens the slice is clamped, and no window is complete.
    recent = lax.dynamic_slice_in_dim(history, length - (size - 1), size - 1, axis=-1)
    match = jnp.arange(windows) + size <= length
    for place in range(size - 1):
        match &= history[..., place : place + windows] == recent[..., place, None]
    return _put(scores, history[..., size - 1 :], match, -jnp.inf)


def forbid_phrases(
    history: jax.Array, length: jax.Array, scores: jax.Array, phrases: Sequence[Sequence[int]]
) -> jax.Array:
    """`NoBadWordsLogitsProcessor`: forbids the last token of each phrase that has begun."""
    for size, group in itertools.groupby(sorted(phrases, key=len), len):
        rows = np.array([*group], np.int32)
        if size == 1:
            scores = suppress(scores, True, rows[:, 0])
        elif size <= history.shape[-1] + 1:
            recent = lax.dynamic_slice_in_dim(history, length - (size - 1), size - 1, axis=-1)
            begun = (recent[:, :, None] == rows[:, :-1]).all(axis=-1) & (length >= size - 1)
            last = jnp.broadcast_to(rows[:, -1], begun.shape)
            scores = _put(scores, last, begun, -jnp.inf)
    return scores


def forbid_end(scores: jax.Array, forbidden: jax.Array, eos_id: int) -> jax.Array:
    """Forbids the end token where `forbidden`, bool [B, K] or scalar.

    `MinLengthLogitsProcessor` and `MinNewTokensLengthLogitsProcessor`.
    """
    end = jnp.where(forbidden, -jnp.inf, scores[..., eos_id])
    return scores.at[..., eos_id].set(end)


def force(scores: jax.Array, now: jax.Array, token: int) -> jax.Array:
    """`ForcedBOSTokenLogitsProcessor` and `ForcedEOSTokenLogitsProcessor`; the score is 0."""
    only = np.full(scores.shape[-1], -np.inf, np.float32)
    only[token] = 0
    return jnp.where(now, only, scores)


def suppress(scores: jax.Array, now: jax.Array | bool, tokens: Collection[int]) -> jax.Array:
    """`SuppressTokensLogitsProcessor` and, with `now`, `SuppressTokensAtBeginLogitsProcessor`."""
    forbidden = np.zeros(scores.shape[-1], bool)
    forbidden[[*tokens]] = True
    return jnp.where(forbidden & now, -jnp.inf, scores)


def _put(
    scores: jax.Array, tokens: jax.Array, where: jax.Array, values: jax.Array | float
) -> jax.Array:
    """Scores [B, K, V] with `values` at tokens [B, K, n] where `where`, bool, is True."""
    batch, width, vocabulary = scores.shape
    # An index past the vocabulary is dropped.
    tokens = jnp.where(where, tokens, vocabulary)
    rows = jnp.arange(batch)[:, None, None], np.arange(width)[:, None]
    return scores.at[(*rows, tokens)].set(values, mode="drop")
