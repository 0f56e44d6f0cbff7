"""Writes a captioner as ONNX: its encoder and a step of its decoder, between which NumPy searches.

The package jax2onnx converts the traced functions. Shapes: see docs/architecture.md.
"""

import importlib.metadata
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax2onnx import to_onnx

from capjax.artefact import onnx_runner
from capjax.artefact.folder import Scorer, write_folder
from capjax.artefact.write import plain
from capjax.data.resize import Resize
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.methods import BeamSearch, Method
from capjax.parallel.platform import traced_for
from capjax.pretrained.captioners.export_captioner import check_free
from capjax.pretrained.errors import ExportError
from capjax.run.load import Run

# The newest that onnxruntime 1.20 and later run.
_OPSET = 21


def write_onnx(
    run: Run,
    directory: str | os.PathLike,
    *,
    method: Method | None = None,
    metrics: Mapping[str, Any] | None = None,
    scores: Scorer | None = None,
) -> list[str]:
    """Writes the folder, whole or not at all; docs/serving.md describes it.

    Args:
      run: the captioner.
      directory: a new folder, or an empty one.
      method: beam search without constraints, by default the run's.
      metrics: see `write_folder`.
      scores: see `write_folder`.

    Returns:
      The names of its files.

    Raises:
      ExportError: there is something already, the model can't be converted, or the method is
        another.
    """
    check_free(directory)
    method = method or run.method()
    search = _plain_search(method, run.tokenizer)
    search.check()
    search.check_words(run.tokenizer)
    if not isinstance(run.resize, Resize):
        raise ExportError("an ensemble whose members see different images can't be ONNX yet")
    contents, shared = convert(run, search)
    tokenizer = run.tokenizer
    fields = {
        "seed": None,
        "attention": None,
        "search": {"start": tokenizer.bos_id, "end": tokenizer.eos_id, "shared": shared},
        "program": {"jax2onnx": importlib.metadata.version("jax2onnx"), "opset": _OPSET},
    }
    return write_folder(
        run, search, directory, contents, fields, runner=onnx_runner, metrics=metrics, scores=scores
    )


def convert(run: Run, search: BeamSearch) -> tuple[dict[str, bytes], int]:
    """Converts (images uint8 [1, H, W, 3]) -> carry and (token, position, carry) -> logits, carry.

    A carry is the list of its leaves: those of the image and then those of its beams, which alone a
    step returns.

    Returns:
      The contents of the files, and the number of the image's leaves.
    """
    model, variables = plain(run.model), run.variables

    def encode(pixels: jax.Array) -> Any:
        memory = model.apply(variables, pixels, method="encode")
        width, most = search.width, search.max_length - 1
        return model.apply(variables, memory, width, most, method="init_carry")

    def start(pixels: jax.Array) -> tuple[jax.Array, ...]:
        carry = encode(pixels)
        return tuple(jax.tree.leaves((carry.per_image, carry.per_beam)))

    pixels = jax.ShapeDtypeStruct((1, *run.resize.shape), jnp.uint8)
    like = jax.eval_shape(encode, pixels)
    leaves, structure = jax.tree.flatten((like.per_image, like.per_beam))

    def step(token: jax.Array, position: jax.Array, *leaves: jax.Array) -> tuple[jax.Array, ...]:
        image, beams = jax.tree.unflatten(structure, leaves)
        carry = like.replace(per_image=image, per_beam=beams, position=position)
        found: Any = model.apply(variables, carry, token, method="step")
        carry, logits, _ = found
        return (logits, *jax.tree.leaves(carry.per_beam))

    token = jax.ShapeDtypeStruct((1, search.width), jnp.int32)
    position = jax.ShapeDtypeStruct((), jnp.int32)
    contents = {
        onnx_runner.ENCODER: _converted(start, pixels),
        onnx_runner.STEP: _converted(step, token, position, *leaves),
    }
    return contents, len(jax.tree.leaves(like.per_image))


def _converted(function: Callable, *inputs: jax.ShapeDtypeStruct) -> bytes:
    try:
        with traced_for("onnx"):
            return to_onnx(function, inputs, opset=_OPSET).SerializeToString()
    except (ValueError, TypeError, NotImplementedError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ExportError(f"jax2onnx can't convert the model: {first}") from error


def _plain_search(method: Method, tokenizer: Tokenizer) -> BeamSearch:
    """The method, if it is beam search that the runner has."""
    if (
        isinstance(method, BeamSearch)
        and method.num_beam_groups == 1
        and not method.must_include
        and not method.control.processors(tokenizer)
    ):
        return method
    raise ExportError(
        "--format onnx searches by beams alone, with a prompt or without, and no other setting of "
        "what captions may say; --format artefact has every method"
    )
