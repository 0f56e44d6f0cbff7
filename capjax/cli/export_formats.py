"""The work of `capjax export`, a function for each format, apart from its flags: it imports JAX."""

import argparse
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import cast

from capjax.artefact.choices import USUAL_PLATFORMS, WEIGHTS
from capjax.artefact.scores import metrics_of, scores_of
from capjax.artefact.write import write_artefact
from capjax.cli import decoding_flags
from capjax.cli.captioner import load_model, load_run
from capjax.config import build
from capjax.models.captioner import Captioner
from capjax.pretrained.captioners.export_captioner import check_free, write_captioner
from capjax.pretrained.captioners.exportable import exportable
from capjax.pretrained.captioners.generation_file import Generation
from capjax.pretrained.captioners.peft_adapters import write_adapters
from capjax.pretrained.captioners.published import is_published
from capjax.pretrained.errors import ExportError
from capjax.run.generation import generation_of
from capjax.run.load import Run

_OF_ONNX = ("jax2onnx", "onnxruntime")
_LOAD = """\
from transformers import AutoImageProcessor, AutoTokenizer, {1}
model = {1}.from_pretrained({0!r})
processor, tokenizer = (kind.from_pretrained({0!r}) for kind in (AutoImageProcessor, AutoTokenizer))
"""
_LOAD_PEFT = """\
from peft import PeftModel
from transformers import {2}
model = PeftModel.from_pretrained({2}.from_pretrained({1!r}), {0!r})
"""


def transformers(given: argparse.Namespace) -> None:
    """Writes a captioner of transformers, and prints its files and the code that loads it.

    Raises:
      ExportError: transformers has no such captioner, or the folder is not empty.
      WorkdirError: the run can't be loaded.
    """
    check_free(given.to)
    run = _load(given)
    generation = generation_of(build.beam_search(run.config.decoding), run.tokenizer)
    captioner = exportable(
        cast(Captioner, run.model),  # No ensemble is loaded here.
        run.variables,
        run.tokenizer,
        build.resize(run.config.dataset),
        generation,
        run.config.get("label_smoothing", 0.0),
    )
    names = write_captioner(captioner, given.to)
    print(
        f"wrote {given.to} of {given.workdir or given.model}, step {run.step}: {', '.join(names)}"
    )
    family = captioner.family
    print(_LOAD.format(given.to, family.architecture), end="")
    if not family.reads_settings:
        print("# Its generate reads no settings: give it those of generation_config.json.")
    if prompt := run.config.decoding.prompt:
        print(f"# Captions begin with {prompt!r}, whose ids are an input of generate: input_ids.")


def peft(given: argparse.Namespace) -> None:
    """Writes a folder of PEFT, and prints its files and the code that loads it.

    Raises:
      ExportError: there is no run with adapters, transformers has no such captioner, or the folder
        is not empty.
      WorkdirError: the run can't be loaded.
    """
    check_free(given.to)
    if not given.workdir:
        raise ExportError("--format peft writes the adapters of a run: give its --workdir")
    run = load_run(given.workdir, given.checkpoint, merged=False)
    model = cast(Captioner, run.model)
    if model.lora is None:
        raise ExportError(
            f"{given.workdir} has no adapters, since its config.lora.rank is 0: --format "
            "transformers writes all of its parameters"
        )
    # An adapter's folder does not say how to caption.
    resize = build.resize(run.config.dataset)
    captioner = exportable(model, run.variables, run.tokenizer, resize, Generation())
    base = run.config.init_from if is_published(run.config.init_from) else None
    names = write_adapters(given.to, captioner, model.lora, base)
    print(f"wrote {given.to} of {given.workdir}, step {run.step}: {', '.join(names)}")
    if base is None:
        print(f"# BASE is what `capjax export` makes of {run.config.init_from}.")
    print(_LOAD_PEFT.format(given.to, base or "BASE", captioner.family.architecture), end="")


def _say(text: str) -> None:
    """Says what is under way; standard output has what was written."""
    print(text, file=sys.stderr, flush=True)


def _load(given: argparse.Namespace) -> Run:
    _say(f"reading {given.workdir or given.model}")
    return load_model(given.model) if given.model else load_run(given.workdir, given.checkpoint)


def artefact(given: argparse.Namespace) -> None:
    """Writes an artefact, and prints its files and the command that runs it.

    Raises:
      ExportError: the model can't be exported, or the folder is not empty.
      ConfigError, SettingError: the model can't decode so.
      DataError: the split can't be scored.
      WorkdirError: the run can't be loaded.
    """
    write = functools.partial(
        write_artefact,
        weights=given.weights or WEIGHTS[0],
        platforms=given.platforms or USUAL_PLATFORMS,
        attention=bool(given.attention),
    )
    _write(given, write)


def onnx(given: argparse.Namespace) -> None:
    """Writes ONNX files, and prints them and the command that runs them.

    Raises:
      ExportError: a package is missing, the model can't be converted, or not decode so, or the
        folder is not empty.
      ConfigError, DataError, SettingError, WorkdirError: see `artefact`.
    """
    if not all(map(importlib.util.find_spec, _OF_ONNX)):
        raise ExportError(
            f"--format onnx needs {' and '.join(_OF_ONNX)}: pip install 'capjax[onnx]'"
        )
    from capjax.artefact.write_onnx import write_onnx

    _write(given, write_onnx)


def _write(given: argparse.Namespace, write: Callable[..., list[str]]) -> None:
    """Writes an artefact of either kind."""
    check_free(given.to)
    run = _load(given)
    method = decoding_flags.method_of(given, run)
    _say(f"tracing the model for {given.to}, a minute or so")
    scorer = None
    if given.scores_split:
        scorer = functools.partial(scores_of, run=run, split=given.scores_split)
    names = write(
        run,
        given.to,
        method=method,
        metrics=metrics_of(given.workdir, run.step) if given.workdir else None,
        scores=scorer,
    )
    print(
        f"wrote {given.to} of {given.workdir or given.model}, step {run.step}: {', '.join(names)}"
    )
    print(f"python {os.path.join(given.to, 'runner.py')} photo.jpg")
