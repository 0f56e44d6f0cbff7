"""Shared by beam search and sampling: a prompt, a scan that stops early, the check of a step.

Shapes: see docs/architecture.md.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from capjax.decode.processors import Processors
from capjax.models.contract import Carry
from capjax.parallel import platform

# step(carry, token int32 [B, K]) -> (carry, logits [B, K, V], attention [B, K, N, P] | None)
Step = Callable[[Carry, jax.Array], tuple[Carry, jax.Array, jax.Array | None]]


def default_chunk() -> int:
    """Default number of steps between checks that a batch has finished.

    On an accelerator each check synchronises with the host. Captions have about ten tokens, so
    checking every fifth step wastes two steps per batch on average. On a CPU a check is free.
    """
    return 1 if platform.on_cpu() else 5


def width_of(carry: Carry) -> tuple[int, int]:
    """(B, K) of a carry, from the shapes of its `per_beam` leaves.

    Raises:
      ValueError: `per_beam` has no leaves, or leaves that differ in [B, K].
    """
    shapes = {leaf.shape[:2] for leaf in jax.tree.leaves(carry.per_beam)}
    if len(shapes) != 1 or len(min(shapes)) != 2:
        raise ValueError(
            f"leaves of carry.per_beam must begin with the same [B, K], not {sorted(shapes)}; "
            "build it with the decoder's init_carry(memory, width=K, max_length)"
        )
    return shapes.pop()


def check_step(
    step: Step,
    carry: Carry,
    *,
    eos_id: int,
    max_length: int,
    attention: bool,
    processors: Processors,
    prompt: Sequence[int],
) -> None:
    """Checks a decoder step and the options of a search against each other, by shapes only.

    Raises:
      ValueError: max_length leaves no token after bos and the prompt, logits are not [B, K, V] with
        V >= 2, eos or the prompt is outside the vocabulary, the prompt has ended, a processor is
        impossible, or attention is requested and the step returns none.
    """
    if max_length < 2:
        raise ValueError(f"max_length counts bos, so it must be at least 2, not {max_length}")
    if max_length < 2 + len(prompt):
        raise ValueError(
            f"max_length={max_length} counts bos and the {len(prompt)} tokens of the prompt, so it "
            f"must be at least {2 + len(prompt)}"
        )
    width = width_of(carry)
    token = jax.ShapeDtypeStruct(width, jnp.int32)
    _, logits, maps = jax.eval_shape(step, carry, token)
    if logits.shape[:-1] != width or logits.shape[-1] < 2:
        raise ValueError(
            f"step must return logits [B, K, V] with (B, K) = {width} and V at least 2, not "
            f"{logits.shape}"
        )
    if not 0 <= eos_id < logits.shape[-1]:
        raise ValueError(f"eos_id={eos_id} is outside the vocabulary of {logits.shape[-1]} tokens")
    if outside := [token for token in prompt if not 0 <= token < logits.shape[-1]]:
        raise ValueError(
            f"the prompt has token {outside[0]}, and the vocabulary {logits.shape[-1]} tokens"
        )
    if eos_id in prompt:
        raise ValueError(f"the prompt has the end token {eos_id}, so no caption can go on from it")
    processors.check(
        vocab_size=logits.shape[-1], eos_id=eos_id, max_length=max_length, prompt=prompt
    )
    if attention and maps is None:
        raise ValueError(
            "return_attention needs a step that returns attention, such as "
            "decoder.step(..., attention=True)"
        )


def feed(step: Step, carry: Carry, tokens: Sequence[int]) -> Carry:
    """The carry after the same tokens are fed to all beams; logits and attention are not used."""
    width = width_of(carry)

    def advance(carry: Carry, token: jax.Array) -> tuple[Carry, None]:
        return step(carry, jnp.broadcast_to(token, width))[0], None

    return lax.scan(advance, carry, jnp.array(tokens, jnp.int32))[0] if tokens else carry


def scan_while(
    body: Callable[[Any], tuple[Any, Any]],
    going: Callable[[Any], jax.Array],
    state: Any,
    *,
    length: int,
    chunk: int | None = None,
) -> tuple[Any, Any]:
    """A `lax.scan` of at most `length` steps that stops when `going` is False.

    Implemented as a `lax.while_loop` over scans of `chunk` steps. The remaining `length % chunk`
    steps come first and always run, at the cost of a second compilation, so that `body` runs at
    most `length` times and a decoder's cache need not be longer than the caption.

    Args:
      body: state -> (state, record), where a record is a tree of arrays.
      going: state -> bool scalar; checked before each chunk.
      state: the initial state.
      length: maximum number of steps, at least 1.
      chunk: steps between checks of `going`, at least 1; None for `default_chunk`.

    Returns:
      The final state, and the records stacked to leaves [length, ...], zero for steps not run.

    Raises:
      ValueError: `chunk` is less than 1.
    """
    chunk = default_chunk() if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    record = jax.eval_shape(body, state)[1]
    records = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), record)

    def run(carried, steps):
        done, state, records = carried
        state, new = lax.scan(lambda state, _: body(state), state, length=steps)
        records = jax.tree.map(
            lambda all_, part: lax.dynamic_update_slice_in_dim(all_, part, done, axis=0),
            records,
            new,
        )
        return done + steps, state, records

    carried = (jnp.int32(0), state, records)
    if length % chunk:
        carried = run(carried, length % chunk)
    if length >= chunk:
        carried = lax.while_loop(
            lambda carried: (carried[0] < length) & going(carried[1]),
            lambda carried: run(carried, chunk),
            carried,
        )
    return carried[1:]
