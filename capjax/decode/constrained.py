"""Lexically constrained beam search by dynamic beam allocation.

Shapes: see docs/architecture.md; here also C for phrases, N for their tokens together.

1. Of each phrase a beam has met p tokens, the most for which its last p tokens are the phrase's
   first p; all of them for good once it occurred. So a token that does not go on with a phrase
   takes it back to the longest beginning that still stands, mostly none.
2. A beam's bank counts the tokens of the phrases that occurred, and the met ones of that phrase of
   the others which has most: 0 to N, and N if all phrases occurred.
3. All one-token extensions of an image's K live beams are candidates. Each bank has K // (N + 1) of
   the K places, and bank N the remainder. Places that a bank has no candidates for go to the bank
   below it, and from bank 0 again to the banks from N down.
4. A candidate that ends, and is among as many of the best of its bank as this has places, becomes a
   hypothesis. The K best with all phrases are kept, and apart from them the K best without.
5. The best candidates of each bank that do not end, as many as it has places, are the live beams.
6. An image is closed as in `capjax.decode.beam`, by the hypotheses with all phrases; those without
   come after them in the result.

The best bank always has a place, and a beam of bank b < N an extension of a bank above b. So after
N steps some beam has all phrases, unless decoder or processors ban their tokens. With fewer than
N + 1 beams the phrases come as soon as they can; use more. Occurrences may overlap, and the prompt
does not count. Without constraints this is beam search.

Post and Vilar 2018, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation for Neural
Machine Translation". There a candidate is one of the K best of all, the best of its beam, or goes
on with a phrase, and the end token only follows all phrases.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from capjax.decode.beam import BestFirst, Rules, beam_search
from capjax.decode.hypotheses import (
    BeamResult,
    Beams,
    Hypotheses,
    best_extensions,
    best_live,
    best_of,
    best_tokens,
    take,
)
from capjax.decode.loop import Step, width_of
from capjax.decode.processors import UNPROCESSED, Processors
from capjax.models.contract import Carry

Phrase = tuple[int, ...]


def constrained_beam_search(
    step: Step,
    carry: Carry,
    *,
    num_beams: int,
    constraints: tuple[Phrase, ...],
    eos_id: int,
    max_length: int,
    processors: Processors = UNPROCESSED,
    prompt: tuple[int, ...] = (),
    **options: Any,
) -> BeamResult:
    """Searches for captions with given words or phrases; see the module's docstring.

    Args:
      step: see `beam_search`, as for the other arguments that are not here.
      carry: of width K, with no token fed.
      num_beams: K; best well above N.
      constraints: phrases that must occur, in any order, the same for all images.
      eos_id: the token that ends a caption.
      max_length: maximum number of tokens of a caption, counting bos and prompt.
      processors: change log-probabilities; what they forbid stays forbidden.
      prompt: tokens fed after bos.
      **options: the other options of `beam_search`.

    Returns:
      With `met`; hypotheses with all phrases come first.

    Raises:
      ValueError: a constraint is impossible, an option is out of range, or carry or step do not
        match the options.
    """
    logits = jax.eval_shape(step, carry, jax.ShapeDtypeStruct(width_of(carry), jnp.int32))[1]
    check_constraints(
        constraints,
        eos_id=eos_id,
        vocab_size=logits.shape[-1],
        steps=max_length - 1 - len(prompt),
        processors=processors,
    )
    banks = Banks(_needed(constraints))
    return beam_search(
        step,
        carry,
        num_beams=num_beams,
        eos_id=eos_id,
        max_length=max_length,
        processors=processors,
        prompt=prompt,
        strategy=banks,
        **options,
    )


def check_constraints(
    constraints: Sequence[Phrase],
    *,
    eos_id: int,
    vocab_size: int,
    steps: int,
    processors: Processors = UNPROCESSED,
) -> None:
    """Checks that each constraint is possible.

    Args:
      constraints: the phrases.
      eos_id: the token that ends a caption.
      vocab_size: V.
      steps: T, the most tokens of a caption.
      processors: those of the search.

    Raises:
      ValueError: one is not; the text starts with "constraints" and has its tokens.
    """
    for phrase in constraints:
        if not phrase:
            raise ValueError("constraints has an empty phrase, which every caption has")
        if outside := [token for token in phrase if not 0 <= token < vocab_size]:
            raise ValueError(
                f"constraints has {phrase}, whose token {outside[0]} is outside the vocabulary of "
                f"{vocab_size} tokens"
            )
        if eos_id in phrase:
            raise ValueError(f"constraints has {phrase}, with the end token {eos_id}")
        if suppressed := {*phrase} & {*processors.suppress_tokens}:
            raise ValueError(
                f"constraints has {phrase}, whose token {min(suppressed)} is in suppress_tokens"
            )
        for bad in processors.bad_words_ids:
            if _contains(phrase, bad):
                raise ValueError(f"constraints has {phrase}, which has {bad} of bad_words_ids")
    room = steps - (processors.forced_eos_token_id is not None)
    room -= processors.forced_bos_token_id is not None
    tokens = sum(map(len, _needed(constraints)))
    if tokens > room:
        raise ValueError(
            f"constraints has {tokens} tokens, {', '.join(map(str, constraints))}, and a caption "
            f"room for {room}; raise max_length"
        )


def _needed(constraints: Sequence[Phrase]) -> tuple[Phrase, ...]:
    """The phrases that do not lie in others."""
    phrases = dict.fromkeys(map(tuple, constraints))
    return tuple(
        phrase
        for phrase in phrases
        if not any(_contains(other, phrase) for other in phrases if other != phrase)
    )


def _contains(phrase: Phrase, part: Phrase) -> bool:
    starts = range(len(phrase) - len(part) + 1)
    return any(phrase[start : start + len(part)] == part for start in starts)


@struct.dataclass
class _State:
    """The state of the search between steps.

    Attributes:
      beams: the live beams, with the hypotheses that have all phrases.
      met: int32 [B, K, C], the met tokens of each phrase by live beam.
      others: the K best hypotheses without all phrases.
    """

    beams: Beams
    met: jax.Array
    others: Hypotheses


@dataclasses.dataclass(frozen=True)
class Banks(BestFirst):
    """Points 1 to 6 of the module's docstring.

    Attributes:
      phrases: the constraints, none of which lies in another.
    """

    phrases: tuple[Phrase, ...]

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """The tokens of the phrases, each once: int32 [U]."""
        return np.array(sorted({*sum(self.phrases, ())}), np.int32)

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int32 [C]."""
        return np.array([*map(len, self.phrases)], np.int32)

    @functools.cached_property
    def moves(self) -> np.ndarray:
        """Met tokens of each phrase after a token, by those before: int32 [C, longest + 1, U + 1].

        The last axis is the place in `tokens`, U for another token.
        """
        longest = max(self.lengths, default=0)
        moves = np.zeros((len(self.phrases), longest + 1, len(self.tokens) + 1), np.int32)
        for row, phrase in zip(moves, self.phrases, strict=True):
            row[len(phrase)] = len(phrase)
            for met in range(len(phrase)):
                for place, token in enumerate(self.tokens):
                    said = (*phrase[:met], token)
                    row[met, place] = max(
                        n for n in range(met + 2) if said[met + 1 - n :] == phrase[:n]
                    )
        return moves

    def advance(self, met: jax.Array, tokens: jax.Array) -> jax.Array:
        """Met tokens int32 [B, n, C] after `tokens` int32 [B, n]."""
        count = len(self.tokens)
        same = tokens[..., None] == self.tokens
        place = jnp.where(same, np.arange(count), count).min(axis=-1, initial=count)
        phrases = np.arange(len(self.phrases))
        return jnp.asarray(self.moves)[phrases, met, place[..., None]]

    def bank(self, met: jax.Array) -> jax.Array:
        """int32 [B, n] of met tokens [B, n, C]."""
        whole = met == self.lengths
        most = jnp.where(whole, 0, met).max(axis=-1, initial=0)
        return jnp.where(whole, met, 0).sum(axis=-1) + most

    def start(self, batch: int, num_beams: int) -> _State:
        beams = super().start(batch, num_beams)
        met = jnp.zeros((batch, num_beams, len(self.phrases)), jnp.int32)
        return _State(beams, met, beams.hypotheses)

    def choose(
        self,
        state: _State,
        rules: Rules,
        logits: jax.Array,
        history: jax.Array | None,
        time: jax.Array,
        lowered: jax.Array | None = None,
    ) -> tuple[_State, Hypotheses]:
        beams, num_beams = state.beams, logits.shape[1]
        log_probs, scores = rules.process(beams, logits, history, time, lowered)
        # The tokens of the phrases, and the best of all others, which share a bank.
        top, tokens = best_tokens(scores.at[..., self.tokens].set(-jnp.inf))
        here = jnp.broadcast_to(self.tokens, (*scores.shape[:2], len(self.tokens)))
        top = jnp.concatenate([scores[..., self.tokens], top], axis=-1)
        tokens = jnp.concatenate([here, tokens], axis=-1)
        said = jnp.take_along_axis(log_probs, tokens, axis=-1)
        norm = rules.norms[time]
        every = num_beams * tokens.shape[-1]
        ends = best_extensions(beams.sums, top, said, tokens, time + 1, norm, every)

        met = self.advance(take(state.met, ends.beams), ends.tokens)
        bank = self.bank(met)
        banks = bank[..., None] == np.arange(self.lengths.sum() + 1)  # [B, n, N + 1]
        real, ended = ends.sums > -jnp.inf, ends.tokens == rules.eos_id
        places = _places(_count(banks, real)[:, -1], num_beams)

        def among(candidates: jax.Array) -> jax.Array:
            """Those that their bank has places for."""
            inside = (_count(banks, candidates) <= places[:, None]) & banks
            return candidates & inside.any(axis=-1)

        may_finish = among(real) & (ended | (time + 1 == len(rules.norms))) & beams.open[:, None]
        whole = bank == self.lengths.sum()
        hypotheses = best_of(beams.hypotheses, ends, may_finish & whole)
        others = best_of(state.others, ends, may_finish & ~whole)

        live, chosen = best_live(ends, among(real & ~ended), num_beams)
        still_open = rules.still_open(beams, live.sums, hypotheses, norm)
        return _State(Beams(live.sums, hypotheses, still_open), take(met, chosen), others), live

    def open(self, state: _State) -> jax.Array:
        return super().open(state.beams)

    def ends(self, state: _State) -> tuple[Hypotheses, jax.Array]:
        groups = state.beams.hypotheses, state.others
        num_beams = state.met.shape[1]
        every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *groups)
        # Among ties top_k takes the first: hypotheses with all phrases, best first, then others.
        real, order = lax.top_k((every.lengths > 0).astype(jnp.int32), num_beams)
        hypotheses = jax.tree.map(lambda leaf: take(leaf, order), every)
        return hypotheses, (real > 0) & (order < num_beams)


def _count(banks: jax.Array, candidates: jax.Array) -> jax.Array:
    """How many of the candidates, bool [B, n], are in each bank up to each: [B, n, N + 1]."""
    return jnp.cumsum(banks & candidates[..., None], axis=1, dtype=jnp.int32)


def _places(candidates: jax.Array, num_beams: int) -> jax.Array:
    """The places of each bank, int32 [B, N + 1], of the numbers of its candidates [B, N + 1]."""
    count = candidates.shape[1]
    share = num_beams // count
    places = [jnp.int32(share)] * count
    places[-1] += num_beams % count
    spare = jnp.int32(0)
    for bank in (*reversed(range(count)), *reversed(range(count))):
        wanted = places[bank] + spare
        places[bank] = jnp.minimum(wanted, candidates[:, bank])
        spare = wanted - places[bank]
    return jnp.stack(places, axis=1)
