"""What beam search and sampling share: the early-stopping scan and the check of a decoder step.

Legend: B images, K captions an image (beams or samples), V vocabulary, N attention maps,
P memory positions.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from capjax.models.contract import Carry

# step(carry, token int32 [B, K]) -> (carry, logits [B, K, V], attention [B, K, N, P] | None)
Step = Callable[[Carry, jax.Array], tuple[Carry, jax.Array, jax.Array | None]]


def default_chunk() -> int:
    """Steps between two looks at whether a batch has finished.

    On an accelerator each look makes the host wait; captions are around ten tokens long, so looking
    every fifth wastes two steps a batch. On a CPU a look costs nothing.
    """
    return 1 if jax.default_backend() == "cpu" else 5


def width_of(carry: Carry) -> tuple[int, int]:
    """(B, K) of a carry, read off its `per_beam` leaves.

    Raises:
      ValueError: the carry has no `per_beam` leaf, or its leaves disagree.
    """
    shapes = {leaf.shape[:2] for leaf in jax.tree.leaves(carry.per_beam)}
    if len(shapes) != 1 or len(min(shapes)) != 2:
        raise ValueError(
            f"carry.per_beam must have leaves that begin with one [B, K], found {sorted(shapes)}; "
            "build it with the decoder's init_carry(memory, width=K, max_length)"
        )
    return shapes.pop()


def check_step(step: Step, carry: Carry, *, eos_id: int, max_length: int, attention: bool) -> None:
    """Refuse at once what would otherwise decode to nonsense.

    Raises:
      ValueError: no room for a token, logits not [B, K, V] with V >= 2, an end token outside the
        vocabulary, or attention asked of a step that gives none.
    """
    if max_length < 2:
        raise ValueError(f"max_length counts the bos token, so it must be at least 2: {max_length}")
    width = width_of(carry)
    token = jax.ShapeDtypeStruct(width, jnp.int32)
    _, logits, maps = jax.eval_shape(step, carry, token)
    if logits.shape[:-1] != width or logits.shape[-1] < 2:
        raise ValueError(f"step must give logits [B, K, V] of [{width}, 2 or more]: {logits.shape}")
    if not 0 <= eos_id < logits.shape[-1]:
        raise ValueError(f"eos_id {eos_id} is outside the vocabulary of {logits.shape[-1]} tokens")
    if attention and maps is None:
        raise ValueError(
            "return_attention needs a step that gives attention: close it over "
            "decoder.step(..., attention=True)"
        )


def scan_while(
    body: Callable[[Any], tuple[Any, Any]],
    going: Callable[[Any], jax.Array],
    state: Any,
    *,
    length: int,
    chunk: int | None = None,
) -> tuple[Any, Any]:
    """A `lax.scan` of at most `length` steps that stops once nothing is going on.

    A `lax.while_loop` over scans of `chunk` steps. The `length % chunk` steps left over come first
    and always run, so that `body` never runs more than `length` times and a decoder's cache need
    not be larger than the caption; they are compiled a second time.

    Args:
      body: state -> (state, record), a record being a tree of arrays.
      going: state -> bool scalar; looked at after each chunk.
      state: the first state.
      length: the most steps to run, at least 1.
      chunk: steps between two looks at `going`, at least 1; None is `default_chunk`.

    Returns:
      The last state, and the records stacked to leaves [length, ...], zero where no step ran.

    Raises:
      ValueError: `chunk` is less than 1.
    """
    chunk = default_chunk() if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 step: {chunk}")
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
