"""The work of `capjax export`, a function for each format, apart from its flags: it imports JAX."""

import argparse
import functools
import os
from typing import cast

from capjax.artefact.scores import metrics_of, scores_of
from capjax.artefact.write import PLATFORMS, write_artefact
from capjax.cli import decoding_flags
from capjax.cli.captioner import load_model, load_run
from capjax.config import build
from capjax.models.captioner import Captioner
from capjax.pretrained.captioners.export_captioner import check_free, write_captioner
from capjax.pretrained.captioners.exportable import exportable
from capjax.run.generation import generation_of
from capjax.run.load import Run

_LOAD = """\
from transformers import AutoImageProcessor, AutoTokenizer, {1}
model = {1}.from_pretrained({0!r})
processor, tokenizer = (kind.from_pretrained({0!r}) for kind in (AutoImageProcessor, AutoTokenizer))
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


def _load(given: argparse.Namespace) -> Run:
    return load_model(given.model) if given.model else load_run(given.workdir, given.checkpoint)


def artefact(given: argparse.Namespace) -> None:
    """Writes an artefact, and prints its files and the command that runs it.

    Raises:
      ExportError: the model can't be exported, or the folder is not empty.
      ConfigError, SettingError: the model can't decode so.
      DataError: the split can't be scored.
      WorkdirError: the run can't be loaded.
    """
    check_free(given.to)
    run = _load(given)
    scorer = None
    if given.scores_split:
        scorer = functools.partial(scores_of, run=run, split=given.scores_split)
    names = write_artefact(
        run,
        given.to,
        method=run.method(**{name: getattr(given, name) for name in decoding_flags.NAMES}),
        weights=given.weights or "float32",
        platforms=given.platforms or PLATFORMS,
        attention=bool(given.attention),
        metrics=metrics_of(given.workdir, run.step) if given.workdir else None,
        scores=scorer,
    )
    print(
        f"wrote {given.to} of {given.workdir or given.model}, step {run.step}: {', '.join(names)}"
    )
    print(f"python {os.path.join(given.to, 'runner.py')} photo.jpg")
