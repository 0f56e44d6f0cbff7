"""Writes a captioner as an artefact: one exported function from pixels to captions.

Shapes: see docs/architecture.md; n captions an image.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jax import export, lax

from capjax.artefact import runner
from capjax.artefact.choices import USUAL_PLATFORMS, Weights
from capjax.artefact.folder import Scorer, write_folder
from capjax.artefact.manifest import MOST_SEED
from capjax.artefact.weights import restore, store
from capjax.data.resize import Resize
from capjax.evaluate.captioning import make_decode
from capjax.evaluate.found import Found
from capjax.evaluate.methods import BeamSearch, Consensus, Method, Sampling
from capjax.models.captioner import Captioner
from capjax.models.ensemble import Ensemble
from capjax.parallel.platform import traced_for
from capjax.pretrained.captioners.export_captioner import check_free
from capjax.pretrained.errors import ExportError
from capjax.run.load import Run

_TABLE = "consensus"


def write_artefact(
    run: Run,
    directory: str | os.PathLike,
    *,
    method: Method | None = None,
    weights: Weights = "float32",
    platforms: Sequence[str] = USUAL_PLATFORMS,
    attention: bool = False,
    metrics: Mapping[str, Any] | None = None,
    scores: Scorer | None = None,
) -> list[str]:
    """Writes the folder, whole or not at all; docs/serving.md describes it.

    Args:
      run: the captioner.
      directory: a new folder, or an empty one.
      method: the decoding method, by default the run's.
      weights: their type in the file.
      platforms: some of `choices.PLATFORMS`, for which the program is lowered.
      attention: whether the program also returns the attention of the best caption.
      metrics: of the run, for the manifest.
      scores: scores the artefact's own captions, for the manifest.

    Returns:
      The names of its files.

    Raises:
      ExportError: there is something already, the model can't be exported, or takes images of
        several sizes, or the seed is larger than the program takes.
      ConfigError: the run can't decode so.
    """
    check_free(directory)
    method = run.with_table(method) if method else run.method()
    method.check()
    method.check_words(run.tokenizer)
    seed = _seed_of(method)
    program, stored = export_program(
        run, method, weights=weights, platforms=platforms, attention=attention
    )
    fields = {
        "seed": seed,
        "attention": _attention(run) if attention else None,
        "weights": weights,
        "program": {
            "jax": jax.__version__,
            "calling_convention": program.calling_convention_version,
            "platforms": list(program.platforms),
            "inputs": _inputs(program),
            "outputs": {name: _said(like) for name, like in _outputs(program).items()},
        },
    }
    contents = {
        runner.PROGRAM: bytes(program.serialize()),
        runner.WEIGHTS: safetensors.numpy.save(stored),
    }
    return write_folder(
        run, method, directory, contents, fields, runner=runner, metrics=metrics, scores=scores
    )


def export_program(
    run: Run,
    method: Method,
    *,
    weights: Weights = "float32",
    platforms: Sequence[str] = USUAL_PLATFORMS,
    attention: bool = False,
) -> tuple[export.Exported, dict[str, np.ndarray]]:
    """Exports (weights, images uint8 [B, H, W, 3], index int32 [B], seed int32) -> arrays.

    The function is a plain one, not mapped over devices, and uses no fused kernel. B is symbolic.

    Returns:
      The program, and the weights that it takes.

    Raises:
      ExportError: the model's parts can't be exported, or its images have several sizes.
    """
    if not isinstance(run.resize, Resize):
        raise ExportError("an ensemble whose members see different images is no artefact yet")
    model = plain(run.model)
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, dict(run.variables)), sep="/")
    stored = store(flat, weights)
    table, structure = jax.tree.flatten(getattr(method, "table", None))
    stored |= {f"{_TABLE}/{i}": np.asarray(leaf, order="C") for i, leaf in enumerate(table)}

    def decode(platform: str) -> Callable[..., Found]:
        def run_decode(variables: Any, memory: Any, index: jax.Array, how: Any) -> Found:
            with traced_for(platform):
                ready = _ready(method, structure, *how)
                decoding = make_decode(model, run.tokenizer, ready, attention=attention)
                return decoding(variables, memory, index)

        return run_decode

    def caption(
        stored: dict[str, jax.Array], pixels: jax.Array, index: jax.Array, seed: jax.Array
    ) -> dict[str, jax.Array]:
        tensors = restore(stored)
        how = [tensors.pop(f"{_TABLE}/{i}") for i in range(len(table))], seed
        variables = traverse_util.unflatten_dict(tensors, sep="/")
        with traced_for("any"):
            memory = model.apply(variables, pixels, method="encode")
        # A search looks up at each step whether all captions have ended, and on accelerators more
        # rarely.
        found = lax.platform_dependent(
            variables, memory, index, how, cpu=decode("cpu"), default=decode("any")
        )
        return {name: leaf for name, leaf in vars(found).items() if leaf is not None}

    (batch,) = export.symbolic_shape("b")
    try:
        program = export.export(jax.jit(caption, keep_unused=True), platforms=tuple(platforms))(
            {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in stored.items()},
            jax.ShapeDtypeStruct((batch, *run.resize.shape), jnp.uint8),
            jax.ShapeDtypeStruct((batch,), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
    except (ValueError, TypeError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ExportError(f"jax.export can't take the model: {first}") from error
    return program, stored


def plain(model: Captioner | Ensemble) -> Captioner | Ensemble:
    """The model without fused kernels, which only some devices have."""
    if isinstance(model, Ensemble):
        return model.clone(members=tuple(map(plain, model.members)))
    return model.clone(fused=False)


def _ready(method: Method, structure: Any, table: Sequence[jax.Array], seed: jax.Array) -> Method:
    """The method with what the program is given: the table of consensus, and the seed."""
    if isinstance(method, Consensus):
        candidates: Any = _ready(method.candidates, structure, table, seed)
        given = jax.tree.unflatten(structure, table)
        return dataclasses.replace(method, candidates=candidates, table=given)
    traced: Any = seed
    return dataclasses.replace(method, seed=traced) if isinstance(method, Sampling) else method


def _seed_of(method: Method) -> int | None:
    """The seed of the samples; None where there are none."""
    candidates = method.candidates if isinstance(method, Consensus) else method
    if isinstance(candidates, BeamSearch):
        return None
    if candidates.seed > MOST_SEED:
        raise ExportError(f"seed={candidates.seed} must be at most {MOST_SEED} in an artefact")
    return candidates.seed


def _attention(run: Run) -> dict[str, Any]:
    pixels = jax.ShapeDtypeStruct((1, *run.resize.shape), jnp.uint8)
    memory = jax.eval_shape(
        lambda v, x: run.model.apply(v, x, method="encode"), run.variables, pixels
    )
    layers = run.model.decoder.attention_layers
    return {"grid": list(memory.grid), "prefix": memory.prefix, "layers": layers}


def _inputs(program: export.Exported) -> dict[str, str]:
    """The shapes of the inputs after the weights."""
    arguments, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    names = ("images", "index", "seed")
    return {name: _said(like) for name, like in zip(names, arguments[1:], strict=True)}


def _outputs(program: export.Exported) -> dict[str, Any]:
    return jax.tree.unflatten(program.out_tree, program.out_avals)


def _said(like: Any) -> str:
    return f"{like.dtype} [{', '.join(map(str, like.shape))}]"
