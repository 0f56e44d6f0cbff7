"""Sampling captions over the decoder contract: temperature, top-k and nucleus.

Legend: B images, K samples an image, V vocabulary, T = max_length - 1 generated tokens,
N attention maps, P memory positions.

Each token is drawn from softmax(logits / temperature), kept to its k likeliest tokens (Fan et al.
2018, "Hierarchical Neural Story Generation") and then to the smallest set of them that holds a
share p of what is left (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration"), in
the order that transformers applies them.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from capjax.decode.loop import Step, check_step, scan_while, width_of
from capjax.models.contract import Carry


@struct.dataclass
class SampleResult:
    """K independent captions an image, in no order.

    Attributes:
      tokens: int32 [B, K, T], without bos, with eos, pad after the end.
      lengths: int32 [B, K], tokens generated: up to and with eos, or T where cut.
      log_probs: float32 [B, K], the sum of token_log_probs.
      token_log_probs: float32 [B, K, T], under the model itself (temperature 1, nothing left out),
        0 after the end.
      finished: bool [B, K], whether it ended with eos; otherwise it was cut at the limit.
      attention: float32 [B, K, T, N, P], row t being where the model looked to say token t, zero
        after the end; None when not asked for.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    token_log_probs: jax.Array
    finished: jax.Array
    attention: jax.Array | None = None


@struct.dataclass
class _State:
    """The samples between two steps.

    Attributes:
      carry: the decoder's.
      tokens: int32 [B, K], the tokens to feed next.
      lengths: int32 [B, K], tokens generated so far.
      finished: bool [B, K], whether the caption has ended with eos.
    """

    carry: Carry
    tokens: jax.Array
    lengths: jax.Array
    finished: jax.Array


def sample(
    step: Step,
    carry: Carry,
    key: jax.Array,
    *,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    max_length: int,
    temperature: float | jax.Array,
    top_k: int | None = None,
    top_p: float | None = None,
    return_attention: bool = False,
    chunk: int | None = None,
) -> SampleResult:
    """K captions an image, each drawn token by token; K is the width of the carry.

    A token is drawn with its image's key folded with its sample and its position, so a sample does
    not change with the rows or samples beside it.

    Args:
      step: (carry, token int32 [B, K]) -> (carry, logits [B, K, V], attention [B, K, N, P] | None).
      carry: of width K, nothing fed yet.
      key: a PRNG key for each image [B], or one, which is folded with the rows of the batch.
      bos_id: the prompt.
      eos_id: the token that ends a caption.
      pad_id: what fills the tokens after the end.
      max_length: the most tokens a caption may have, counting bos.
      temperature: divides the logits; 0 is greedy decoding, where the key plays no part. A traced
        scalar is not checked.
      top_k: draw from the k likeliest tokens alone (and their equals).
      top_p: draw from the smallest set of likeliest tokens whose probabilities reach p (and the
        equals of its last).
      return_attention: whether to give the attention of each sample.
      chunk: steps between two looks at whether the batch has finished; None is
        `loop.default_chunk`.

    Raises:
      ValueError: an option without meaning, or a carry or step that does not fit the options.
    """
    if not isinstance(temperature, jax.core.Tracer) and temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or positive: {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for every token: {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], or be None for every token: {top_p}")
    check_step(step, carry, eos_id=eos_id, max_length=max_length, attention=return_attention)
    batch, width = width_of(carry)
    rows = jax.vmap(jax.random.fold_in, (None, 0))
    keys = key if key.ndim else rows(key, jnp.arange(batch))
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(width))

    def draw(logits: jax.Array, lengths: jax.Array) -> jax.Array:
        greedy = temperature == 0
        divided = logits / jnp.where(greedy, 1, temperature)
        now = jax.vmap(jax.vmap(jax.random.fold_in))(keys, lengths)
        drawn = jax.vmap(jax.vmap(jax.random.categorical))(now, _restrict(divided, top_k, top_p))
        return jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)

    def advance(state: _State) -> tuple[_State, tuple]:
        new_carry, logits, attention = step(state.carry, state.tokens)
        logits = logits.astype(jnp.float32)
        drawn = draw(logits, state.lengths)
        log_probs = jnp.take_along_axis(logits, drawn[..., None], axis=-1)[..., 0]
        log_probs -= jax.nn.logsumexp(logits, axis=-1)

        over = state.finished
        tokens = jnp.where(over, pad_id, drawn)
        record: tuple[jax.Array, ...] = (tokens, jnp.where(over, 0.0, log_probs))
        if return_attention and attention is not None:
            maps = jnp.where(over[..., None, None], 0, attention)
            record += (maps.astype(jnp.float32),)
        state = _State(
            carry=new_carry,
            tokens=tokens,
            lengths=state.lengths + ~over,
            finished=over | (drawn == eos_id),
        )
        return state, record

    state = _State(
        carry=carry,
        tokens=jnp.full((batch, width), bos_id, jnp.int32),
        lengths=jnp.zeros((batch, width), jnp.int32),
        finished=jnp.zeros((batch, width), bool),
    )
    state, records = scan_while(
        advance,
        lambda state: ~state.finished.all(),
        state,
        length=max_length - 1,
        chunk=chunk,
    )
    tokens, log_probs, *attention = (jnp.moveaxis(record, 0, 2) for record in records)
    # Where the loop stopped early the records are zero, and pad need not be.
    inside = jnp.arange(max_length - 1) < state.lengths[..., None]
    return SampleResult(
        tokens=jnp.where(inside, tokens, pad_id),
        lengths=state.lengths,
        log_probs=log_probs.sum(axis=-1),
        token_log_probs=log_probs,
        finished=state.finished,
        attention=attention[0] if attention else None,
    )


def _restrict(logits: jax.Array, top_k: int | None, top_p: float | None) -> jax.Array:
    """Logits [..., V] with -inf for the tokens outside the k likeliest or outside the nucleus."""
    if top_k is not None:
        least = lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        ranked = -jnp.sort(-logits, axis=-1)
        probs = jax.nn.softmax(ranked, axis=-1)
        # A token belongs to the nucleus when those before it do not reach p; the first always does.
        inside = jnp.cumsum(probs, axis=-1) - probs < top_p
        least = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
