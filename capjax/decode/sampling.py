"""Sampling of captions over the decoder contract: temperature, top-k, nucleus, min-p and typical.

Shapes: see docs/architecture.md; T = max_length - 1 - (length of the prompt) generated tokens.

Each token is drawn from softmax(logits / temperature), where processors may change the logits,
restricted to the k likeliest tokens (Fan et al. 2018, "Hierarchical Neural Story Generation"), then
to the nucleus, the smallest set of tokens with at least probability p (Holtzman et al. 2020, "The
Curious Case of Neural Text Degeneration"), then to tokens that are not much less likely than the
likeliest (Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling"), and then to those with the
most typical information, a set of at least probability p (Meister et al. 2023, "Locally Typical
Sampling"), in the order of transformers.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from capjax.decode.loop import Step, check_step, feed, scan_while, width_of
from capjax.decode.processors import UNPROCESSED, Processors, append, normalize, start_history
from capjax.models.contract import Carry


@struct.dataclass
class SampleResult:
    """K independent captions per image, unordered.

    Attributes:
      tokens: int32 [B, K, T], without bos and prompt, with eos, pad after the end.
      lengths: int32 [B, K], generated tokens, counting eos; T if cut at the limit.
      scores: float32 [B, K], the sum of the tokens' log-probabilities under the processed logits,
        at temperature 1 and without restriction; without processors, log_probs.
      log_probs: float32 [B, K], the sum of token_log_probs.
      token_log_probs: float32 [B, K, T], under the model (temperature 1, all tokens, no
        processors), 0 after the end.
      finished: bool [B, K], True if ended by eos, False if cut at the limit.
      attention: float32 [B, K, T, N, P], that of token t in row t, zero after the end; None if not
        requested.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array
    log_probs: jax.Array
    token_log_probs: jax.Array
    finished: jax.Array
    attention: jax.Array | None = None


@struct.dataclass
class _State:
    """The state of sampling between steps.

    Attributes:
      carry: the decoder's.
      tokens: int32 [B, K], the next tokens to feed.
      lengths: int32 [B, K], tokens generated so far.
      finished: bool [B, K], True if the caption has ended with eos.
      history: int32 [B, K, max_length - 1], the tokens from bos; None without processors.
    """

    carry: Carry
    tokens: jax.Array
    lengths: jax.Array
    finished: jax.Array
    history: jax.Array | None


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
    min_p: float | None = None,
    typical_p: float | None = None,
    processors: Processors = UNPROCESSED,
    prompt: tuple[int, ...] = (),
    return_attention: bool = False,
    chunk: int | None = None,
) -> SampleResult:
    """Samples K captions per image, where K is the width of the carry.

    The key of a token is the key of its image folded with the indices of sample and position, so
    that a sample does not depend on other images or samples of the batch.

    Args:
      step: (carry, token int32 [B, K]) -> (carry, logits [B, K, V], attention [B, K, N, P] | None).
      carry: of width K, with no token fed.
      key: PRNG keys [B], one per image, or one key, which is folded with the row of each image.
      bos_id: the first token fed.
      eos_id: the token that ends a caption.
      pad_id: the token that fills a caption after its end.
      max_length: maximum number of tokens of a caption, counting bos and prompt.
      temperature: divides the logits; 0 for greedy decoding, which ignores the key. A traced scalar
        is not checked.
      top_k: restricts draws to the k likeliest tokens and ties with the last; None for no limit.
      top_p: restricts draws to the smallest set of likeliest tokens whose probabilities sum to p or
        more, and ties with the last; None for no limit.
      min_p: restricts draws to tokens with at least this share of the likeliest token's
        probability; None for no limit.
      typical_p: restricts draws to the smallest set of tokens with this probability or more whose
        information, -log p, is nearest to the entropy, and ties with the last; None for no limit.
      processors: change the logits before all of this.
      prompt: tokens fed after bos, the same for all images; their attention is not returned.
      return_attention: whether to return the attention of each sample.
      chunk: steps between checks that the batch has finished; None for `loop.default_chunk`.

    Raises:
      ValueError: an option is out of range, or carry or step do not match the options.
    """
    if not isinstance(temperature, jax.core.Tracer) and temperature < 0:
        raise ValueError(f"temperature must be 0 (greedy) or positive, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for no limit, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], or None for no limit, not {top_p}")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ValueError(f"min_p must be in [0, 1], or None for no limit, not {min_p}")
    if typical_p is not None and not 0 < typical_p <= 1:
        raise ValueError(f"typical_p must be in (0, 1], or None for no limit, not {typical_p}")
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
    steps = max_length - 1 - len(prompt)
    rows = jax.vmap(jax.random.fold_in, (None, 0))
    keys = key if key.ndim else rows(key, jnp.arange(batch))
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(width))

    def draw(logits: jax.Array, lengths: jax.Array) -> jax.Array:
        greedy = temperature == 0
        divided = logits / jnp.where(greedy, 1, temperature)
        now = jax.vmap(jax.vmap(jax.random.fold_in))(keys, lengths)
        allowed = restrict(divided, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p)
        drawn = jax.vmap(jax.vmap(jax.random.categorical))(now, allowed)
        return jnp.where(greedy, jnp.argmax(logits, axis=-1), drawn).astype(jnp.int32)

    def of_drawn(values: jax.Array, drawn: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, drawn[..., None], axis=-1)[..., 0]

    def advance(state: _State) -> tuple[_State, dict[str, jax.Array]]:
        new_carry, logits, attention = step(state.carry, state.tokens)
        logits = logits.astype(jnp.float32)
        over = state.finished
        history = None
        if state.history is not None:
            # The lengths of samples that have not ended are equal.
            fed = 1 + len(prompt) + state.lengths.max()
            own, logits = processors.process(
                logits,
                state.history,
                fed,
                raw=True,
                stuck=jnp.logical_not,
                eos_id=eos_id,
                max_length=max_length,
                prompt_length=len(prompt),
            )
        drawn = draw(logits, state.lengths)
        if state.history is None:
            record = {"log_probs": of_drawn(logits, drawn) - jax.nn.logsumexp(logits, axis=-1)}
        else:
            history = append(state.history, fed, drawn)
            scores = of_drawn(normalize(logits), drawn)
            # No token may be allowed, and what is drawn then is none of the caption.
            own = jnp.where(scores > -jnp.inf, of_drawn(own, drawn), -jnp.inf)
            record = {"log_probs": own, "scores": scores}
        record = {name: jnp.where(over, 0.0, leaf) for name, leaf in record.items()}
        tokens = jnp.where(over, pad_id, drawn)
        record["tokens"] = tokens
        if return_attention and attention is not None:
            maps = jnp.where(over[..., None, None], 0, attention)
            record["attention"] = maps.astype(jnp.float32)
        state = _State(
            carry=new_carry,
            tokens=tokens,
            lengths=state.lengths + ~over,
            finished=over | (drawn == eos_id),
            history=history,
        )
        return state, record

    given = (bos_id, *prompt)
    history = start_history(given, (batch, width), max_length) if processors else None
    state = _State(
        carry=feed(step, carry, given[:-1]),
        tokens=jnp.full((batch, width), given[-1], jnp.int32),
        lengths=jnp.zeros((batch, width), jnp.int32),
        finished=jnp.zeros((batch, width), bool),
        history=history,
    )
    state, records = scan_while(
        advance,
        lambda state: ~state.finished.all(),
        state,
        length=steps,
        chunk=chunk,
    )
    found = {name: jnp.moveaxis(leaf, 0, 2) for name, leaf in records.items()}
    # Records of steps not run are zero, and pad_id need not be zero.
    inside = jnp.arange(steps) < state.lengths[..., None]
    log_probs = found["log_probs"]
    return SampleResult(
        tokens=jnp.where(inside, found["tokens"], pad_id),
        lengths=state.lengths,
        scores=found.get("scores", log_probs).sum(axis=-1),
        log_probs=log_probs.sum(axis=-1),
        token_log_probs=log_probs,
        finished=state.finished,
        attention=found.get("attention"),
    )


def restrict(
    logits: jax.Array,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
) -> jax.Array:
    """Logits [..., V] with -inf for tokens that are not to be drawn; see `sample`."""
    if top_k is not None:
        least = lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        ranked = -jnp.sort(-logits, axis=-1)
        probs = jax.nn.softmax(ranked, axis=-1)
        # A token is in the nucleus if likelier tokens sum to less than p; the first always is.
        inside = jnp.cumsum(probs, axis=-1) - probs < top_p
        least = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if min_p:
        least = logits.max(axis=-1, keepdims=True) + math.log(min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if typical_p is not None:
        log_probs = normalize(logits)
        probs = jnp.exp(log_probs)
        entropy = -jnp.where(probs > 0, probs * log_probs, 0.0).sum(axis=-1, keepdims=True)
        distance = jnp.abs(log_probs + entropy)
        ranked, probs = lax.sort((distance, probs), num_keys=1)
        inside = jnp.cumsum(probs, axis=-1) - probs < typical_p
        most = jnp.max(jnp.where(inside, ranked, -jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(distance > most, -jnp.inf, logits)
    return logits
