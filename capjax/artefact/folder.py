"""The folder of an artefact, whatever runs its model: its files, its manifest and its runner."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from capjax.artefact.captioner import Captioner
from capjax.artefact.manifest import MANIFEST, TOKENIZER, VERSION, about_file, digest
from capjax.evaluate.methods import Consensus, Method, settings_of
from capjax.files.atomic import write_atomic
from capjax.files.text import finite
from capjax.pretrained.captioners.export_captioner import new_folder
from capjax.run.load import Run, made_by

_RUNNER = "runner.py"
# The imports of a runner, and in its own files, whose place the files that they name take.
_IMPORT = re.compile(
    r"^from capjax\.(artefact|data)\.(\w+) import (?:\([^)]*\)|.*)\n", re.MULTILINE
)

# From an artefact that is otherwise whole to the scores of its captions.
Scorer = Callable[[Captioner], Mapping[str, Any]]


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
        run.tokenizer.save(temporary / TOKENIZER)
        names = os.listdir(temporary)
        manifest = {
            "format": runner.FORMAT,
            "version": VERSION,
            **_about(run, method),
            **fields,
            "files": {name: about_file(str(temporary / name)) for name in sorted(names)},
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
    folder, written = Path(str(runner.__file__)).parent, set()

    def whole(path: Path) -> str:
        if path in written:
            return ""
        written.add(path)
        text = path.read_text(encoding="utf-8")
        return _IMPORT.sub(lambda at: whole(folder.parent / at[1] / f"{at[2]}.py"), text)

    return whole(Path(str(runner.__file__)))


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
    content["sha256"] = digest(content)
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / MANIFEST, text.encode())
