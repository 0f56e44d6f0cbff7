"""The folder of an artefact, whatever runs its model: its files, its manifest and its runner."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from capjax.artefact import captioner, images
from capjax.evaluate.methods import Consensus, Method, settings_of
from capjax.files.atomic import write_atomic
from capjax.files.text import finite
from capjax.pretrained.captioners.export_captioner import new_folder
from capjax.run.load import Run, made_by

_RUNNER = "runner.py"

# From an artefact that is otherwise whole to the scores of its captions.
Scorer = Callable[[captioner.Captioner], Mapping[str, Any]]


def write_folder(
    run: Run,
    method: Method,
    directory: str | os.PathLike,
    contents: Mapping[str, bytes],
    fields: Mapping[str, Any],
    *,
    runner: ModuleType,
    metrics: Mapping[str, Any] | None,
    scores: Scorer | None,
) -> list[str]:
    """Writes the folder, whole or not at all; docs/serving.md describes it.

    Args:
      run: the captioner.
      method: the decoding method.
      directory: a new folder, or an empty one.
      contents: of the files that hold the model, by name.
      fields: of the manifest, which the runner reads: "seed" unless another one is given, None
        where nothing is drawn; "attention"; and others of its own.
      runner: the module that becomes runner.py, with `FORMAT` and `load`.
      metrics: of the run, for the manifest.
      scores: scores the artefact's own captions, for the manifest.

    Returns:
      The names of its files.

    Raises:
      ExportError: there is something already.
    """
    with new_folder(directory) as place:
        temporary = Path(place)
        source = runner_source(runner).encode()
        for name, content in {**contents, _RUNNER: source}.items():
            write_atomic(temporary / name, content)
        run.tokenizer.save(temporary / captioner.TOKENIZER)
        names = os.listdir(temporary)
        manifest = {
            "format": runner.FORMAT,
            "version": captioner.VERSION,
            **_about(run, method),
            **fields,
            "files": {name: captioner.about_file(str(temporary / name)) for name in sorted(names)},
            "metrics": dict(metrics or {}),
            "scores": {},
            "made_by": made_by(run, method),
        }
        _write_manifest(temporary, manifest)
        if scores is not None:
            manifest["scores"] = dict(scores(runner.load(temporary)))
            _write_manifest(temporary, manifest)
        return sorted(os.listdir(temporary))


def runner_source(runner: ModuleType) -> str:
    """The text of runner.py for a folder: one file, which imports nothing of capjax."""
    source = _text(runner)
    for part in (captioner, images):
        lines = source.splitlines(keepends=True)
        (line,) = (each for each in lines if each.startswith(f"from {part.__name__} import"))
        source = source.replace(line, _text(part), 1)
    return source


def _text(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _about(run: Run, method: Method) -> dict[str, Any]:
    """The fields of a manifest that every runner and a server read."""
    tokenizer = run.tokenizer
    return {
        "about": run.architecture,
        "parameters": run.num_parameters,
        "preprocessing": dataclasses.asdict(run.resize),
        "decoding": settings_of(method),
        "captions": method.num_captions,
        # Whether equal captions of an image are one.
        "distinct": isinstance(method, Consensus),
        "tokens": {
            "special": sorted(tokenizer.special_ids),
            "prompt": list(method.control.prompt_ids(tokenizer)),
        },
    }


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    content = json.loads(json.dumps(finite(dict(manifest))))
    content["sha256"] = captioner.digest(content)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / captioner.MANIFEST, text.encode())
