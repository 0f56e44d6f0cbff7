"""Hypotheses and back-pointers of the beam searches.

Shapes: see docs/architecture.md; T = max_length - 1 - (length of the prompt) generated tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax


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
      met: bool [B, K], True if `constrained_beam_search` met all constraints; None from others.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array
    log_probs: jax.Array
    token_log_probs: jax.Array
    finished: jax.Array
    attention: jax.Array | None = None
    met: jax.Array | None = None


@struct.dataclass
class Hypotheses:
    """Last steps of hypotheses, leaves [B, K], or of n candidates, leaves [B, n].

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
class Beams:
    """The live beams and the hypotheses of an image, or of one group of an image's beams.

    Attributes:
      sums: float32 [B, K], of processed log-probabilities of each live beam, best first; -inf for
        no beam.
      hypotheses: the K best so far, best first.
      open: bool [B], True while the hypotheses can change.
    """

    sums: jax.Array
    hypotheses: Hypotheses
    open: jax.Array


@struct.dataclass
class Record:
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


def start_beams(batch: int, num_beams: int) -> Beams:
    """One live beam per image and no hypotheses."""
    shape = (batch, num_beams)
    none = jnp.full(shape, -jnp.inf, jnp.float32)
    zero = jnp.zeros(shape, jnp.int32)
    hypotheses = Hypotheses(none, none, zero, zero, zero, jnp.zeros(shape, jnp.float32))
    return Beams(none.at[:, 0].set(0.0), hypotheses, jnp.ones(batch, bool))


def best_tokens(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best 2K scores of each beam and their tokens, [B, K, 2K], of scores [B, K, V]."""
    batch, num_beams, vocabulary = scores.shape
    # Flattened, because XLA on CPUs has a fast top_k for matrices only and sorts higher ranks.
    top, tokens = lax.top_k(scores.reshape(-1, vocabulary), min(2 * num_beams, vocabulary))
    return top.reshape(batch, num_beams, -1), tokens.reshape(batch, num_beams, -1)


def best_extensions(
    sums: jax.Array,
    scores: jax.Array,
    log_probs: jax.Array,
    tokens: jax.Array,
    length: jax.Array,
    norm: jax.Array,
    count: int,
) -> Hypotheses:
    """The best extensions of live beams, best first; ties in beam order.

    Args:
      sums: float32 [B, K], of the live beams.
      scores: float32 [B, K, n], the processed log-probability of each token.
      log_probs: float32 [B, K, n], the model's own.
      tokens: int32 [B, K, n].
      length: int32 scalar, generated tokens with these.
      norm: float32 scalar, that of the length.
      count: how many; at most K * n.
    """
    batch, _, choices = tokens.shape
    sums, index = lax.top_k((sums[..., None] + scores).reshape(batch, -1), count)
    return Hypotheses(
        scores=sums / norm,
        sums=sums,
        lengths=jnp.broadcast_to(length, sums.shape),
        beams=index // choices,
        tokens=take(tokens.reshape(batch, -1), index),
        token_log_probs=take(log_probs.reshape(batch, -1), index),
    )


def best_of(hypotheses: Hypotheses, ends: Hypotheses, may_finish: jax.Array) -> Hypotheses:
    """The K best of K hypotheses and the n candidates marked by `may_finish`, bool [B, n]."""
    real = may_finish & (ends.scores > -jnp.inf)
    ends = dataclasses.replace(ends, scores=jnp.where(real, ends.scores, -jnp.inf))
    merged = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1), hypotheses, ends)
    # top_k takes the first of ties, so only a real candidate replaces an empty hypothesis.
    _, chosen = lax.top_k(merged.scores, hypotheses.scores.shape[1])
    return jax.tree.map(lambda leaf: take(leaf, chosen), merged)


def best_live(ends: Hypotheses, stays: jax.Array, num_beams: int) -> tuple[Hypotheses, jax.Array]:
    """The K best of the n candidates marked by `stays`, bool [B, n], and their places [B, K]."""
    sums, chosen = lax.top_k(jnp.where(stays, ends.sums, -jnp.inf), num_beams)
    live = jax.tree.map(lambda leaf: take(leaf, chosen), ends)
    return dataclasses.replace(live, sums=sums), chosen


def take(leaf: jax.Array, index: jax.Array) -> jax.Array:
    """leaf[b, index[b, k]]: leaf [B, n, ...], index [B, K] in [0, n) -> [B, K, ...]."""
    index = index.reshape(index.shape + (1,) * (leaf.ndim - 2))
    return jnp.take_along_axis(leaf, index, axis=1, mode="promise_in_bounds")


def trace_back(ends: Hypotheses, records: Record, eos_id: int, pad_id: int) -> BeamResult:
    """Traces each hypothesis from its end to bos; records have leaves [T, B, K, ...]."""
    last = ends.lengths - 1

    def back(beams: jax.Array, at: tuple[jax.Array, Record]) -> tuple[jax.Array, Any]:
        time, record = at
        here = Record(ends.tokens, ends.beams, ends.token_log_probs, None)
        before = jax.tree.map(lambda leaf: take(leaf, beams), record)
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
        attention = jax.vmap(lambda maps, beam: take(maps, beam[:, None])[:, 0])(
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


def with_own_log_probs(result: BeamResult) -> BeamResult:
    """The result of a search whose scores differ from the model's own."""
    log_probs = result.token_log_probs.sum(axis=-1)
    log_probs = jnp.where(result.lengths > 0, log_probs, -jnp.inf)
    return dataclasses.replace(result, log_probs=log_probs)
