"""What a model needs: operations and bytes, counted for images and captions without any padding.

Counted are the matrix products and convolutions of the model's own forward pass, traced for one
image and for captions of each length, and not those of a program that a benchmark runs. So a
program that pads, that computes again in the backward pass or that keeps beams which are equal
gains nothing here. Element-wise work, norms and optimizer count as nothing.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.matmul_count import matmul_flops


def caption_flops(
    model: Any, variables: Any, image: Any, lengths: Iterable[int], method: str | None = None
) -> tuple[float, float]:
    """Operations of one forward pass: (once for an image, for captions of all the `lengths`).

    Args:
      model: a captioner.
      variables: its variables or their shapes.
      image: one image [1, H, W, 3] or features [1, P, F], or their shape.
      lengths: number of targets of each caption.
      method: "decode", if `image` is the memory of one.
    """

    def flops(captions: int, length: int) -> float:
        tokens = jax.ShapeDtypeStruct((1, captions, length), jnp.int32)

        def forward(variables: Any, image: Any, tokens: Any) -> Any:
            return model.apply(variables, image, tokens, train=False, method=method).logits

        return matmul_flops(forward, variables, image, tokens)

    once, each = 0.0, 0.0
    for length, times in Counter(lengths).items():
        one, two = flops(1, length), flops(2, length)
        once, each = 2 * one - two, each + times * (two - one)
    return once, each


def feature_flops(
    model: Any, shape: tuple[int, int], lengths: Iterable[int]
) -> tuple[float, float]:
    """`caption_flops` of a captioner on features [P, F] of `shape`."""
    variables = jax.eval_shape(lambda key: model.init_variables(key, shape), jax.random.key(0))
    return caption_flops(model, variables, jax.ShapeDtypeStruct((1, *shape), jnp.float32), lengths)


def training_flops(inputs: float, rest: float) -> float:
    """Operations of a training step, from those of the forward pass.

    A product's backward pass is two more of its size, one of them for the gradient of its input.
    The products of `inputs` take the images or features themselves, which need no gradient.
    """
    return 2 * inputs + 3 * rest


def search_needs(
    model: Any, variables: Any, images: Any, beams: int, words: int
) -> dict[str, dict[str, float]]:
    """Needs of a beam search over images [B, H, W, 3] without captions that end before `words`.

    All beams of an image have the same first word, so that it counts once.

    Returns:
      The needs of "encoder", "decoding", and "generate", which is both.
    """

    def encode(variables: Any, images: Any) -> Any:
        return model.apply(variables, images, method="encode")

    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    count, encoder = len(images), matmul_flops(encode, variables, one)
    memory = jax.eval_shape(encode, variables, one)
    once, each = caption_flops(model, variables, memory, [words], "decode")
    decoding = {
        "flops": count * (once + each / words * (1 + beams * (words - 1))),
        "bytes": words * step_bytes(model, variables, memory, count),
    }
    return {
        "encoder": {"flops": count * encoder},
        "decoding": decoding,
        "generate": {**decoding, "flops": count * encoder + decoding["flops"]},
    }


def step_bytes(model: Any, variables: Any, memory: Any, images: int) -> float:
    """Bytes that a step of a search reads: weights once, and what is kept of each image.

    Lookups of embeddings and the keys and values of words before are left out.

    Args:
      model: a captioner.
      variables: its variables or their shapes.
      memory: of one image, or its shape.
      images: their number.
    """

    def start(variables: Any, memory: Any) -> Any:
        return model.apply(variables, memory, 1, 1, method="init_carry")

    carry = jax.eval_shape(start, variables, memory)

    def step(decoder: Any, carry: Any) -> Any:
        made = {**variables, "params": {**variables["params"], "decoder": decoder}}
        token = jnp.zeros((1, 1), jnp.int32)
        return model.apply(made, carry, token, method="step")[1]

    decoder = variables["params"]["decoder"]
    closed, logits = jax.make_jaxpr(step, return_shape=True)(decoder, carry)
    read = {id(var) for equation in closed.jaxpr.eqns for var in equation.invars}
    named = jax.tree_util.tree_leaves_with_path(decoder)
    weights = {
        jax.tree_util.keystr(path): leaf
        for (path, leaf), var in zip(named, closed.jaxpr.invars, strict=False)
        if id(var) in read and leaf.ndim > 1
    }
    tables = {name for name in weights if "embedding" in name}
    vocabulary = logits.shape[-1]
    has_output = any(vocabulary in weights[name].shape for name in weights.keys() - tables)
    for name in tables:
        if has_output or vocabulary not in weights[name].shape:
            del weights[name]
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(carry.per_image))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in weights.values()) + images * kept
