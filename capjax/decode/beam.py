"""Beam search over the decoder contract, with the meaning of `transformers.generate`.

Legend: B images, K beams, V vocabulary, T = max_length - 1 generated tokens, N attention maps,
P memory positions.

1. K live beams an image; at first only one of them exists, holding the bos token.
2. A step feeds each live beam's last token, and ranks all one-token extensions by the sum of their
   tokens' log-probabilities. The best 2K are candidates: at most K of them end, so K can go on.
3. A candidate among the first K that ends (eos, or the length limit) becomes a hypothesis, of
   score sum / n ** length_penalty, n counting every generated token with the eos. An image keeps
   its K best hypotheses. An ending candidate ranked after K is dropped.
4. The best K candidates that do not end are the next live beams.
5. An image closes, and its hypotheses stay as they are, when it has K hypotheses and
   early_stopping is True, or the best live beam is not better than the worst hypothesis, its sum
   divided by n ** length_penalty (False) or, for a positive penalty, T ** length_penalty ("never").
6. The search ends when every image is closed, or after T steps.

Length normalisation and the two sets of beams are those of Wu et al. 2016, "Google's Neural Machine
Translation System", section 7; candidates, closing and limit are those of transformers'
`GenerationMixin._beam_search` (version 5). Neither their dead beams nor banned tokens can finish
here, which differs from transformers only where the vocabulary has fewer than 2K allowed tokens.
Hypotheses are followed by back-pointers at the end, so neither tokens nor attention are reordered
on the way.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from capjax.decode.loop import Step, check_step, scan_while, width_of
from capjax.models.contract import Carry

# Decoders ban a token with a logit of -1e9; no token that a model allows comes near to this.
_BANNED = -1e8


@struct.dataclass
class BeamResult:
    """The hypotheses of a beam search, best first.

    An image always has one; where it has fewer than K, the last ranks have length 0, only pad
    tokens and a score of -inf.

    Attributes:
      tokens: int32 [B, K, T], without bos, with eos, pad after the end.
      lengths: int32 [B, K], tokens generated: up to and with eos, or T where cut.
      scores: float32 [B, K], log_probs / lengths ** length_penalty.
      log_probs: float32 [B, K], the sum of token_log_probs.
      token_log_probs: float32 [B, K, T], 0 after the end.
      finished: bool [B, K], whether it ended with eos; otherwise it was cut at the limit.
      attention: float32 [B, T, N, P] of the best hypothesis, row t being where the model looked
        to say token t, zero after the end; None when not asked for.
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
    """Ends of captions; every leaf is [B, K], or [B, 2K] for candidates.

    Attributes:
      scores: float32, normalised by length; -inf where there is no hypothesis.
      log_probs: float32, the sum over tokens.
      lengths: int32, tokens generated, 0 where there is no hypothesis.
      beams: int32, the live beam that was fed to give the last token.
      tokens: int32, the last token.
      token_log_probs: float32, the last token's.
    """

    scores: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    beams: jax.Array
    tokens: jax.Array
    token_log_probs: jax.Array


@struct.dataclass
class _State:
    """The search between two steps.

    Attributes:
      carry: the decoder's, its beams in the order of `tokens`.
      length: int32 scalar, tokens generated so far.
      open: bool [B], whether the image's hypotheses may still change.
      tokens: int32 [B, K], the last token of each live beam.
      log_probs: float32 [B, K], each live beam's sum, best first; -inf where there is no beam.
      hypotheses: the best so far, best first.
    """

    carry: Carry
    length: jax.Array
    open: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    hypotheses: _Hypotheses


@struct.dataclass
class _Record:
    """What a step leaves for the way back; live beams in their order after the step.

    Attributes:
      tokens: int32 [B, K], the token that the step gave each live beam.
      beams: int32 [B, K], the live beam before the step that it extends.
      token_log_probs: float32 [B, K].
      attention: [B, K, N, P] in the order before the step, or None.
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
    early_stopping: bool | Literal["never"] = False,
    return_attention: bool = False,
    chunk: int | None = None,
) -> BeamResult:
    """The best captions that a beam search finds; see the module's docstring.

    With one beam this is greedy decoding, whatever the penalty and the stopping rule. bos, eos and
    pad may be one id. Runs under `jit` and `pmap`, and an image's captions do not depend on the
    rest of its batch.

    Args:
      step: (carry, token int32 [B, K]) -> (carry, logits [B, K, V], attention [B, K, N, P] | None).
      carry: of width K, nothing fed yet.
      num_beams: K.
      bos_id: the prompt.
      eos_id: the token that ends a caption.
      pad_id: what fills the tokens after the end.
      max_length: the most tokens a caption may have, counting bos.
      length_penalty: the exponent; above 0 favours longer captions, 0 takes the plain sum.
      early_stopping: True, False or "never", as in `transformers.GenerationConfig`.
      return_attention: whether to give the best hypothesis's attention.
      chunk: steps between two looks at whether the batch has finished; None is
        `loop.default_chunk`.

    Raises:
      ValueError: an option without meaning, or a carry or step that does not fit the options.
    """
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f'early_stopping must be True, False or "never": {early_stopping!r}')
    check_step(step, carry, eos_id=eos_id, max_length=max_length, attention=return_attention)
    batch, width = width_of(carry)
    if width != num_beams:
        raise ValueError(f"carry was made for {width} beams an image, not num_beams={num_beams}")
    steps = max_length - 1
    # In double precision as transformers has it; float32 powers of a traced length are not exact.
    doubles = np.arange(1, steps + 1, dtype=np.float64) ** length_penalty
    norms = jnp.asarray(doubles, jnp.float32)
    # One beam that went on after its eos would no longer be greedy.
    close_when_full = early_stopping is True or num_beams == 1
    look_ahead = early_stopping == "never" and length_penalty > 0

    def advance(state):
        new_carry, logits, attention = step(state.carry, state.tokens)
        norm = norms[state.length]
        length = state.length + 1
        ends = _extend(state.log_probs, logits, length, norm)
        ending = (ends.tokens == eos_id) | (length == steps)

        may_finish = ending & (jnp.arange(2 * num_beams) < num_beams) & state.open[:, None]
        hypotheses = _best_of(state.hypotheses, ends, may_finish)

        log_probs, chosen = lax.top_k(jnp.where(ending, -jnp.inf, ends.log_probs), num_beams)
        live = jax.tree.map(lambda leaf: _take(leaf, chosen), ends)
        if num_beams > 1:
            per_beam = jax.tree.map(lambda leaf: _take(leaf, live.beams), new_carry.per_beam)
            new_carry = new_carry.replace(per_beam=per_beam)

        best_possible = log_probs[:, 0] / (norms[-1] if look_ahead else norm)
        improvable = best_possible > hypotheses.scores[:, -1]
        if close_when_full:
            improvable &= hypotheses.lengths[:, -1] == 0
        state = _State(
            carry=new_carry,
            length=length,
            open=state.open & improvable,
            tokens=live.tokens,
            log_probs=log_probs,
            hypotheses=hypotheses,
        )
        attention = attention if return_attention else None
        return state, _Record(live.tokens, live.beams, live.token_log_probs, attention)

    state = _start(carry, batch, num_beams, bos_id)
    state, records = scan_while(
        advance,
        lambda state: state.open.any(),
        state,
        length=steps,
        chunk=chunk,
    )
    return _trace_back(state.hypotheses, records, eos_id, pad_id)


def _start(carry: Carry, batch: int, num_beams: int, bos_id: int) -> _State:
    """One live beam an image, at bos, and no hypothesis."""
    shape = (batch, num_beams)
    none = jnp.full(shape, -jnp.inf, jnp.float32)
    zero = jnp.zeros(shape, jnp.int32)
    return _State(
        carry=carry,
        length=jnp.int32(0),
        open=jnp.ones(batch, bool),
        tokens=jnp.full(shape, bos_id, jnp.int32),
        log_probs=none.at[:, 0].set(0.0),
        hypotheses=_Hypotheses(none, none, zero, zero, zero, jnp.zeros(shape, jnp.float32)),
    )


def _extend(
    log_probs: jax.Array, logits: jax.Array, length: jax.Array, norm: jax.Array
) -> _Hypotheses:
    """The 2K best extensions of an image's live beams by one token, best first; equals by beam.

    The best 2K of each beam, then the best 2K of those: no sort over K * V, and log-probabilities
    for those few tokens alone.
    """
    batch, num_beams, vocabulary = logits.shape
    logits = logits.astype(jnp.float32)
    # Flat, because XLA on the CPU has a fast top_k for matrices and sorts anything of higher rank.
    top, tokens = lax.top_k(logits.reshape(-1, vocabulary), min(2 * num_beams, vocabulary))
    top, tokens = (leaf.reshape(batch, num_beams, -1) for leaf in (top, tokens))
    largest = top[..., :1]
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - largest), axis=-1, keepdims=True))
    token_log_probs = (top - largest) - log_sum
    token_log_probs = jnp.where(token_log_probs < _BANNED, -jnp.inf, token_log_probs)

    sums = log_probs[..., None] + token_log_probs
    sums, index = lax.top_k(sums.reshape(batch, -1), 2 * num_beams)
    return _Hypotheses(
        scores=sums / norm,
        log_probs=sums,
        lengths=jnp.broadcast_to(length, sums.shape),
        beams=index // top.shape[-1],
        tokens=_take(tokens.reshape(batch, -1), index),
        token_log_probs=_take(token_log_probs.reshape(batch, -1), index),
    )


def _best_of(hypotheses: _Hypotheses, ends: _Hypotheses, may_finish: jax.Array) -> _Hypotheses:
    """The K best of K hypotheses and those of 2K candidates that may finish (bool [B, 2K])."""
    real = may_finish & (ends.scores > -jnp.inf)
    ends = dataclasses.replace(ends, scores=jnp.where(real, ends.scores, -jnp.inf))
    merged = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), hypotheses, ends)
    # Among equals top_k takes the first, so a place without hypothesis is only taken by a real one.
    _, chosen = lax.top_k(merged.scores, hypotheses.scores.shape[1])
    return jax.tree.map(lambda leaf: _take(leaf, chosen), merged)


def _take(leaf: jax.Array, index: jax.Array) -> jax.Array:
    """leaf[b, index[b, k]]: leaf [B, M, ...] and index [B, K] in [0, M) give [B, K, ...]."""
    index = index.reshape(index.shape + (1,) * (leaf.ndim - 2))
    return jnp.take_along_axis(leaf, index, axis=1, mode="promise_in_bounds")


def _trace_back(ends: _Hypotheses, records: _Record, eos_id: int, pad_id: int) -> BeamResult:
    """Follow each hypothesis from its end to bos; records have leaves [T, B, K, ...]."""
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
        log_probs=ends.log_probs,
        token_log_probs=jnp.moveaxis(said.token_log_probs, 0, -1),
        finished=(ends.lengths > 0) & (ends.tokens == eos_id),
        attention=attention,
    )
