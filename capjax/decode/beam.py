"""Beam search over the decoder contract, equivalent to that of `transformers.generate`.

Shapes: see docs/architecture.md; T = max_length - 1 - (length of the prompt) generated tokens.

1. An image has K live beams. Initially only one of them exists and holds bos and the prompt.
2. A step feeds the last token of each live beam and ranks all one-token extensions by their sum of
   token log-probabilities, as changed by the processors. The best 2K are candidates: at most K of
   them end, so K can continue.
3. A candidate among the first K that ends, by eos or the length limit, becomes a hypothesis with
   score sum / n ** length_penalty, where n counts the generated tokens with eos. An image keeps its
   K best hypotheses. A candidate that ends and ranks below K is dropped.
4. The best K candidates that do not end are the next live beams.
5. An image is closed, and its hypotheses are final, when it has K hypotheses and early_stopping is
   True, or when the score of the best live beam does not exceed that of the worst hypothesis. This
   score uses n ** length_penalty (early_stopping False) or, for a positive penalty,
   T ** length_penalty ("never").
6. The search ends when all images are closed, or after T steps.

"never" cannot change the hypotheses, whatever the sign of the penalty: no token has a processed
log-probability above 0, so the sum s <= 0 of the best live beam bounds the sums of all its
extensions, and s / norm is largest at the longest length for a positive penalty, and at the present
one otherwise. False can end a search early only for a positive penalty. Greedy decoding (K = 1)
ends at the first eos.

If the processors forbid all extensions of all live beams of an image that has no hypothesis, these
beams end with eos, so that the image has a caption; with `Processors.allowed` only where eos is
allowed.

Length normalisation and the two sets of beams follow Wu et al. 2016, "Google's Neural Machine
Translation System", section 7; candidates, closing and length limit follow transformers'
`GenerationMixin._beam_search` (version 5). Beams that do not exist and banned tokens cannot finish
here, which differs from transformers only if fewer than 2K tokens are allowed. Hypotheses are
traced by back-pointers at the end, so that tokens and attention are not reordered at each step.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from capjax.decode.hypotheses import (
    BeamResult,
    Beams,
    Hypotheses,
    Record,
    best_extensions,
    best_live,
    best_of,
    best_tokens,
    start_beams,
    take,
    trace_back,
    with_own_log_probs,
)
from capjax.decode.length import LengthNormalization, length_norms
from capjax.decode.loop import Step, check_step, feed, scan_while, width_of
from capjax.decode.processors import (
    BANNED,
    UNPROCESSED,
    Processors,
    append,
    normalize,
    own_log_probs,
    start_history,
)
from capjax.models.contract import Carry


@dataclasses.dataclass(frozen=True)
class Rules:
    """The options of a search by which its beams are chosen.

    Attributes:
      num_beams: K.
      eos_id: the token that ends a caption.
      max_length: maximum number of tokens of a caption, counting bos and prompt.
      prompt_length: tokens of the prompt, without bos.
      norms: float32 [T], what the sum of each length is divided by.
      look_ahead: whether a live beam's score is that at the longest length.
      close_when_full: whether K hypotheses are enough.
      processors: change log-probabilities or, with one beam, logits.
    """

    num_beams: int
    eos_id: int
    max_length: int
    prompt_length: int
    norms: jax.Array
    look_ahead: bool
    close_when_full: bool
    processors: Processors

    def process(
        self,
        beams: Beams,
        logits: jax.Array,
        history: jax.Array | None,
        time: jax.Array,
        lowered: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The model's log-probabilities and the processed ones, both [B, k, V].

        Args:
          beams: k live beams.
          logits: [B, k, V].
          history: int32 [B, k, L]; None without processors.
          time: int32 scalar, tokens generated before.
          lowered: float32 [B, 1, V], by how much log-probabilities are lowered before they are
            processed; None for nothing.
        """
        log_probs = own_log_probs(logits)
        before = log_probs if lowered is None else log_probs - lowered
        if history is None:
            return log_probs, before
        _, scores = self.processors.process(
            logits if lowered is None else before,
            history,
            1 + self.prompt_length + time,
            raw=self.num_beams == 1 or lowered is not None,
            stuck=lambda ways: _no_way(beams, ways),
            eos_id=self.eos_id,
            max_length=self.max_length,
            prompt_length=self.prompt_length,
        )
        return log_probs, normalize(scores) if self.num_beams == 1 else scores

    def still_open(
        self, beams: Beams, sums: jax.Array, hypotheses: Hypotheses, norm: jax.Array
    ) -> jax.Array:
        """bool [B], whether hypotheses can change after a step; the other arguments are new.

        Takes the norm that divided the sums: of two equal look-ups XLA divides by a reciprocal.
        """
        best_possible = sums[:, 0] / (self.norms[-1] if self.look_ahead else norm)
        improvable = best_possible > hypotheses.scores[:, -1]
        if self.close_when_full:
            improvable &= hypotheses.lengths[:, -1] == 0
        return beams.open & improvable


def _no_way(beams: Beams, ways: jax.Array) -> jax.Array:
    """bool [B, 1], True for no hypothesis and no way on; `ways` is bool [B, K]."""
    ways &= beams.sums > -jnp.inf
    return ~(ways.any(axis=1) | (beams.hypotheses.lengths[:, 0] > 0))[:, None]


class BestFirst:
    """Points 2 to 5 of the module's docstring; other searches choose otherwise."""

    def start(self, batch: int, num_beams: int) -> Any:
        """The state before the first step: `Beams` here."""
        return start_beams(batch, num_beams)

    def choose(
        self,
        state: Any,
        rules: Rules,
        logits: jax.Array,
        history: jax.Array | None,
        time: jax.Array,
        lowered: jax.Array | None = None,
    ) -> tuple[Any, Hypotheses]:
        """The state after a step and the last steps of the new live beams, leaves [B, K].

        Arguments: see `Rules.process`.
        """
        width = logits.shape[1]
        norm = rules.norms[time]
        if rules.processors or lowered is not None:
            log_probs, scores = rules.process(state, logits, history, time, lowered)
            top, tokens = best_tokens(scores)
            said = jnp.take_along_axis(log_probs, tokens, axis=-1)
        else:
            top, tokens = _best_log_probs(logits)
            said = top
        ends = best_extensions(state.sums, top, said, tokens, time + 1, norm, 2 * width)
        ended = ends.tokens == rules.eos_id
        may_finish = ended | (time + 1 == len(rules.norms))
        may_finish &= (jnp.arange(2 * width) < width) & state.open[:, None]
        hypotheses = best_of(state.hypotheses, ends, may_finish)
        live, _ = best_live(ends, ~ended, width)
        still_open = rules.still_open(state, live.sums, hypotheses, norm)
        return Beams(live.sums, hypotheses, still_open), live

    def open(self, state: Any) -> jax.Array:
        """bool, False if the search is over."""
        return state.open.any()

    def ends(self, state: Any) -> tuple[Hypotheses, jax.Array | None]:
        """The hypotheses, best first, and `BeamResult.met`."""
        return state.hypotheses, None


BEST_FIRST = BestFirst()


def _best_log_probs(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best 2K log-probabilities of each beam and their tokens, [B, K, 2K].

    Computes log-probabilities for these tokens only.
    """
    logits = logits.astype(jnp.float32)
    top, tokens = best_tokens(logits)
    largest = top[..., :1]
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True))
    log_probs = (top - largest) - log_sum
    return jnp.where(log_probs < BANNED, -jnp.inf, log_probs), tokens


@struct.dataclass
class _State:
    """The state of the search between steps.

    Attributes:
      carry: the decoder's, with beams in the order of `tokens`.
      length: int32 scalar, tokens generated so far.
      tokens: int32 [B, K], the last token of each live beam.
      history: int32 [B, K, max_length - 1], the tokens of each live beam from bos; None without
        processors.
      beams: the strategy's.
    """

    carry: Carry
    length: jax.Array
    tokens: jax.Array
    history: jax.Array | None
    beams: Any


def beam_search(
    step: Step,
    carry: Carry,
    *,
    num_beams: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    max_length: int,
    length_penalty: float = 1.0,
    length_normalization: LengthNormalization = "power",
    early_stopping: bool | Literal["never"] = False,
    processors: Processors = UNPROCESSED,
    prompt: tuple[int, ...] = (),
    return_attention: bool = False,
    chunk: int | None = None,
    strategy: BestFirst = BEST_FIRST,
) -> BeamResult:
    """Searches for the K best captions of each image; see the module's docstring.

    With one beam this is greedy decoding, for any length_penalty and early_stopping. bos, eos and
    pad can share an id. Runs under `jit` and `pmap`. An image's captions do not depend on the other
    images of the batch.

    Args:
      step: (carry, token int32 [B, K]) -> (carry, logits [B, K, V], attention [B, K, N, P] | None).
      carry: of width K, with no token fed.
      num_beams: K.
      bos_id: the first token fed.
      eos_id: the token that ends a caption.
      pad_id: the token that fills a caption after its end.
      max_length: maximum number of tokens of a caption, counting bos and prompt.
      length_penalty: exponent of the length; above 0 favours longer captions, 0 is the plain sum.
      length_normalization: "power" or "gnmt"; see `capjax.decode.length`.
      early_stopping: True, False or "never", as in `transformers.GenerationConfig`.
      processors: change log-probabilities or, with one beam, logits before tokens are chosen.
      prompt: tokens fed after bos, the same for all images; their attention is not returned.
      return_attention: whether to return the attention of the best hypothesis.
      chunk: steps between checks that the batch has finished; None for `loop.default_chunk`.
      strategy: chooses the beams; `diverse_beam_search` and `constrained_beam_search` have others.

    Raises:
      ValueError: an option is out of range, or carry or step do not match the options.
    """
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f'early_stopping must be True, False or "never", not {early_stopping!r}')
    check_step(
        step,
        carry,
        eos_id=eos_id,
        max_length=max_length,
        attention=return_attention,
        processors=processors,
        prompt=prompt,
    )
    batch, width = width_of(carry)
    if width != num_beams:
        raise ValueError(f"carry has {width} beams per image, not num_beams={num_beams}")
    rules = Rules(
        num_beams=num_beams,
        eos_id=eos_id,
        max_length=max_length,
        prompt_length=len(prompt),
        norms=length_norms(max_length - 1 - len(prompt), length_penalty, length_normalization),
        look_ahead=early_stopping == "never" and length_penalty > 0,
        # Greedy decoding ends at the first eos.
        close_when_full=early_stopping is True or num_beams == 1,
        processors=processors,
    )

    def advance(state: _State) -> tuple[_State, Record]:
        carry, logits, attention = step(state.carry, state.tokens)
        length = state.length + 1
        beams, live = strategy.choose(state.beams, rules, logits, state.history, state.length)
        if num_beams > 1:
            per_beam = jax.tree.map(lambda leaf: take(leaf, live.beams), carry.per_beam)
            carry = dataclasses.replace(carry, per_beam=per_beam)
        history = state.history
        if history is not None:
            history = append(take(history, live.beams), length + len(prompt), live.tokens)
        attention = attention if return_attention else None
        record = Record(live.tokens, live.beams, live.token_log_probs, attention)
        return _State(carry, length, live.tokens, history, beams), record

    given = (bos_id, *prompt)
    shape = (batch, num_beams)
    state = _State(
        carry=feed(step, carry, given[:-1]),
        length=jnp.int32(0),
        tokens=jnp.full(shape, given[-1], jnp.int32),
        history=start_history(given, shape, max_length) if processors else None,
        beams=strategy.start(batch, num_beams),
    )
    state, records = scan_while(
        advance,
        lambda state: strategy.open(state.beams),
        state,
        length=len(rules.norms),
        chunk=chunk,
    )
    hypotheses, met = strategy.ends(state.beams)
    result = trace_back(hypotheses, records, eos_id, pad_id)
    result = dataclasses.replace(result, met=met)
    return with_own_log_probs(result) if processors else result
