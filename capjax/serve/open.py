"""Opens what a command line names as models to serve."""

import os
from collections.abc import Sequence

from capjax.artefact import runner
from capjax.artefact.manifest import MANIFEST, ArtefactError, is_artefact
from capjax.serve.artefacts import ServedArtefact
from capjax.serve.served import Served, ServedError


def open_models(
    sources: Sequence[str], *, checkpoint: str, most_beams: int, most_length: int
) -> list[Served]:
    """The models of folders and names, which are called by the last part of those.

    Args:
      sources: runs, captioners of transformers, artefacts.
      checkpoint: of runs; see `capjax.load`.
      most_beams: see `ServedRun`.
      most_length: see `ServedRun`.

    Raises:
      ReportedError: one can't be loaded.
    """
    models: list[Served] = []
    for source in sources:
        name = _free(os.path.basename(os.path.abspath(source)), {model.name for model in models})
        if is_artefact(source):
            models.append(_artefact(name, source))
            continue
        # Imported here, because an artefact needs nothing of training.
        from capjax.run.load import load
        from capjax.serve.runs import ServedRun

        run = load(source, checkpoint)
        models.append(ServedRun(name, run, most_beams=most_beams, most_length=most_length))
    return models


def _artefact(name: str, folder: str) -> ServedArtefact:
    try:
        return ServedArtefact(name, runner.load(folder))
    except ArtefactError as error:
        raise ServedError(str(error)) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        what = "its preprocessing or decoding can't be read"
        raise ServedError(f"{folder}/{MANIFEST}: {what} ({error})") from error


def _free(name: str, taken: set[str]) -> str:
    """The name, or with the next number behind it."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found
