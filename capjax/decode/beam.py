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
from jax import lax

from capjax.decode.length import LengthNormalization, length_norms
from capjax.decode.loop import Step, check_step, feed, scan_while, width_of
from capjax.decode.processors import (
    BANNED,
    UNPROCESSED,
    Processors,
    append,
    normalize,
    start_history,
)
from capjax.models.contract import Carry


@struct.dataclass
class BeamResult:
    """The hypotheses of a beam search, best first.

    An image has at least one, unless its logits are NaN or infinite. If it has fewer than K, the
    remaining ranks have length 0, only pad tokens and score -inf.

    Attributes:
      tokens: int32 [B, K, T], without bos and prompt, with eos, pad after the end.
      lengths: int32 [B, K], generated tokens, counting eos; T if cut at the limit.
      scores: float32 [B, K], the sum of processed log-probabilities / lengths ** length_penalty;
        without processors log_probs / lengths ** length_penalty. With one beam, those of the
        distribution that the processed logits have.
      log_probs: float32 [B, K], the sum of token_log_probs.
      token_log_probs: float32 [B, K, T], the model's own, whatever the processors; 0 after the end.
      finished: bool [B, K], True if ended by eos, False if cut at the limit.
      attention: float32 [B, T, N, P] of the best hypothesis, that of token t in row t, zero after
        the end; None if not requested.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array
    log_probs: jax.Array
    token_log_probs: jax.Array
    finished: jax.Array
    attention: jax.Array | None = None


@struct.dataclass
class _Hypotheses:
    """Last steps of hypotheses, leaves [B, K], or of candidates, leaves [B, 2K].

    Attributes:
      scores: float32, normalised by length; -inf for no hypothesis.
      sums: float32, of processed log-probabilities over tokens.
      lengths: int32, generated tokens; 0 for no hypothesis.
      beams: int32, the live beam that the last token extends.
      tokens: int32, the last token.
      token_log_probs: float32, the model's own log-probability of the last token.
    """

    scores: jax.Array
    sums: jax.Array
    lengths: jax.Array
    beams: jax.Array
    tokens: jax.Array
    token_log_probs: jax.Array


@struct.dataclass
class _State:
    """The state of the search between steps.

    Attributes:
      carry: the decoder's, with beams in the order of `tokens`.
      length: int32 scalar, tokens generated so far.
      open: bool [B], True while the image's hypotheses can change.
      tokens: int32 [B, K], the last token of each live beam.
      sums: float32 [B, K], of processed log-probabilities of each live beam, best first; -inf for
        no beam.
      hypotheses: the K best so far, best first.
      history: int32 [B, K, max_length - 1], the tokens of each live beam from bos; None without
        processors.
    """

    carry: Carry
    length: jax.Array
    open: jax.Array
    tokens: jax.Array
    sums: jax.Array
    hypotheses: _Hypotheses
    history: jax.Array | None


@struct.dataclass
class _Record:
    """Back-pointers of a step, by live beam after the step.

    Attributes:
      tokens: int32 [B, K], the token that the step appended.
      beams: int32 [B, K], the live beam before the step that the token extends.
      token_log_probs: float32 [B, K], log-probability of the token.
      attention: [B, K, N, P] by live beam before the step, or None.
    """

    tokens: jax.Array
    beams: jax.Array
    token_log_probs: jax.Array
    attention: jax.Array | None


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
    steps = max_length - 1 - len(prompt)
    norms = length_norms(steps, length_penalty, length_normalization)
    # Greedy decoding ends at the first eos.
    close_when_full = early_stopping is True or num_beams == 1
    look_ahead = early_stopping == "never" and length_penalty > 0

    def advance(state):
        new_carry, logits, attention = step(state.carry, state.tokens)
        norm = norms[state.length]
        length = state.length + 1
        fed = length + len(prompt)
        if processors:
            log_probs, scores = processors.process(
                logits,
                state.history,
                fed,
                raw=num_beams == 1,
                stuck=lambda ways: _no_way(state, ways),
                eos_id=eos_id,
                max_length=max_length,
                prompt_length=len(prompt),
            )
            scores = normalize(scores) if num_beams == 1 else scores
            top, tokens = _best_tokens(scores)
            said = jnp.take_along_axis(log_probs, tokens, axis=-1)
            ends = _best_extensions(state.sums, top, said, tokens, length, norm)
        else:
            ends = _extend(state.sums, logits, length, norm)
        ending = (ends.tokens == eos_id) | (length == steps)

        may_finish = ending & (jnp.arange(2 * num_beams) < num_beams) & state.open[:, None]
        hypotheses = _best_of(state.hypotheses, ends, may_finish)

        sums, chosen = lax.top_k(jnp.where(ending, -jnp.inf, ends.sums), num_beams)
        live = jax.tree.map(lambda leaf: _take(leaf, chosen), ends)
        if num_beams > 1:
            per_beam = jax.tree.map(lambda leaf: _take(leaf, live.beams), new_carry.per_beam)
            new_carry = new_carry.replace(per_beam=per_beam)

        history = None
        if processors:
            history = append(_take(state.history, live.beams), fed, live.tokens)

        best_possible = sums[:, 0] / (norms[-1] if look_ahead else norm)
        improvable = best_possible > hypotheses.scores[:, -1]
        if close_when_full:
            improvable &= hypotheses.lengths[:, -1] == 0
        state = _State(
            carry=new_carry,
            length=length,
            open=state.open & improvable,
            tokens=live.tokens,
            sums=sums,
            hypotheses=hypotheses,
            history=history,
        )
        attention = attention if return_attention else None
        return state, _Record(live.tokens, live.beams, live.token_log_probs, attention)

    given = (bos_id, *prompt)
    state = _start(feed(step, carry, given[:-1]), batch, num_beams, given[-1])
    if processors:
        history = start_history(given, (batch, num_beams), max_length)
        state = state.replace(history=history)
    state, records = scan_while(
        advance,
        lambda state: state.open.any(),
        state,
        length=steps,
        chunk=chunk,
    )
    result = _trace_back(state.hypotheses, records, eos_id, pad_id)
    if processors:
        log_probs = result.token_log_probs.sum(axis=-1)
        result = result.replace(log_probs=jnp.where(result.lengths > 0, log_probs, -jnp.inf))
    return result


def _start(carry: Carry, batch: int, num_beams: int, last: int) -> _State:
    """The initial state: one live beam per image, at token `last`, and no hypotheses."""
    shape = (batch, num_beams)
    none = jnp.full(shape, -jnp.inf, jnp.float32)
    zero = jnp.zeros(shape, jnp.int32)
    return _State(
        carry=carry,
        length=jnp.int32(0),
        open=jnp.ones(batch, bool),
        tokens=jnp.full(shape, last, jnp.int32),
        sums=none.at[:, 0].set(0.0),
        hypotheses=_Hypotheses(none, none, zero, zero, zero, jnp.zeros(shape, jnp.float32)),
        history=None,
    )


def _extend(sums: jax.Array, logits: jax.Array, length: jax.Array, norm: jax.Array) -> _Hypotheses:
    """The 2K best one-token extensions of an image's live beams, best first; ties in beam order.

    Takes the best 2K of each beam, then the best 2K of these, which avoids a sort over K * V and
    computes log-probabilities for these tokens only.
    """
    logits = logits.astype(jnp.float32)
    top, tokens = _best_tokens(logits)
    largest = top[..., :1]
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True))
    log_probs = (top - largest) - log_sum
    log_probs = jnp.where(log_probs < BANNED, -jnp.inf, log_probs)
    return _best_extensions(sums, log_probs, log_probs, tokens, length, norm)


def _no_way(state: _State, ways: jax.Array) -> jax.Array:
    """bool [B, 1], True for no hypothesis and no way on; `ways` is bool [B, K]."""
    ways &= state.sums > -jnp.inf
    return ~(ways.any(axis=1) | (state.hypotheses.lengths[:, 0] > 0))[:, None]


def _best_tokens(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best 2K scores of each beam and their tokens, [B, K, 2K], of scores [B, K, V]."""
    batch, num_beams, vocabulary = scores.shape
    # Flattened, because XLA on CPUs has a fast top_k for matrices only and sorts higher ranks.
    top, tokens = lax.top_k(scores.reshape(-1, vocabulary), min(2 * num_beams, vocabulary))
    return top.reshape(batch, num_beams, -1), tokens.reshape(batch, num_beams, -1)


def _best_extensions(
    sums: jax.Array,
    scores: jax.Array,
    log_probs: jax.Array,
    tokens: jax.Array,
    length: jax.Array,
    norm: jax.Array,
) -> _Hypotheses:
    """The 2K best of the extensions by `tokens` [B, K, n]; sums [B, K], the others [B, K, n]."""
    batch, num_beams, count = tokens.shape
    sums, index = lax.top_k((sums[..., None] + scores).reshape(batch, -1), 2 * num_beams)
    return _Hypotheses(
        scores=sums / norm,
        sums=sums,
        lengths=jnp.broadcast_to(length, sums.shape),
        beams=index // count,
        tokens=_take(tokens.reshape(batch, -1), index),
        token_log_probs=_take(log_probs.reshape(batch, -1), index),
    )


def _best_of(hypotheses: _Hypotheses, ends: _Hypotheses, may_finish: jax.Array) -> _Hypotheses:
    """The K best of K hypotheses and the candidates marked by `may_finish`, bool [B, 2K]."""
    real = may_finish & (ends.scores > -jnp.inf)
    ends = dataclasses.replace(ends, scores=jnp.where(real, ends.scores, -jnp.inf))
    merged = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), hypotheses, ends)
    # top_k takes the first of ties, so only a real candidate replaces an empty hypothesis.
    _, chosen = lax.top_k(merged.scores, hypotheses.scores.shape[1])
    return jax.tree.map(lambda leaf: _take(leaf, chosen), merged)


def _take(leaf: jax.Array, index: jax.Array) -> jax.Array:
    """leaf[b, index[b, k]]: leaf [B, n, ...], index [B, K] in [0, n) -> [B, K, ...]."""
    index = index.reshape(index.shape + (1,) * (leaf.ndim - 2))
    return jnp.take_along_axis(leaf, index, axis=1, mode="promise_in_bounds")


def _trace_back(ends: _Hypotheses, records: _Record, eos_id: int, pad_id: int) -> BeamResult:
    """Traces each hypothesis from its end to bos; records have leaves [T, B, K, ...]."""
    last = ends.lengths - 1

    def back(beams: jax.Array, at: tuple[jax.Array, _Record]) -> tuple[jax.Array, Any]:
        time, record = at
        here = _Record(ends.tokens, ends.beams, ends.token_log_probs, None)
        before = jax.tree.map(lambda leaf: _take(leaf, beams), record)
        said = jax.tree.map(lambda end, live: jnp.where(time == last, end, live), here, before)
        over = time > last
        said = dataclasses.replace(
            said,
            tokens=jnp.where(over, pad_id, said.tokens),
            beams=jnp.where(over, 0, said.beams),
            token_log_probs=jnp.where(over, 0.0, said.token_log_probs),
        )
        return said.beams, said

    times = jnp.arange(records.tokens.shape[0])
    _, said = lax.scan(
        back,
        jnp.zeros_like(last),
        (times, dataclasses.replace(records, attention=None)),
        reverse=True,
    )
    attention = None
    if records.attention is not None:
        best = said.beams[:, :, 0]
        attention = jax.vmap(lambda maps, beam: _take(maps, beam[:, None])[:, 0])(
            records.attention, best
        )
        inside = times[:, None] <= last[:, 0]
        attention = jnp.where(inside[..., None, None], attention, 0).astype(jnp.float32)
        attention = attention.swapaxes(0, 1)
    return BeamResult(
        tokens=jnp.moveaxis(said.tokens, 0, -1),
        lengths=ends.lengths,
        scores=ends.scores,
        log_probs=ends.sums,
        token_log_probs=jnp.moveaxis(said.token_log_probs, 0, -1),
        finished=(ends.lengths > 0) & (ends.tokens == eos_id),
        attention=attention,
    )
