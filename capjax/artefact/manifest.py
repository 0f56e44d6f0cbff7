"""The manifest of an artefact: what it says, and the files that it vouches for.

Writing an artefact puts this file into its runner.py, in the place of the import.
"""

import hashlib
import json
import os
import stat
from typing import Any

# Of the folder's layout. A runner reads the versions up to its own.
VERSION = 1
MANIFEST, PROGRAM = "manifest.json", "program.jax"
WEIGHTS, TOKENIZER = "weights.safetensors", "tokenizer.json"
# The program takes an int32.
MOST_SEED = 2**31 - 1
# The longest ones have a million allowed captions.
_MOST_BYTES = 128 * 2**20

_NONE, _WHOLE = type(None), range(2**31)
# What is read of a manifest: a number of a range, one of several forms, a text itself, a type, a
# list, or an object with these fields and any others.
_FORM: dict[str, Any] = {
    "about": str,
    "parameters": range(2**63),
    "preprocessing": {
        "size": range(1, 8193),
        "resize_to": range(8193),
        "keep_aspect": bool,
        "interpolation": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
        "antialias": bool,
        "round_crop": bool,
    },
    "decoding": {"method": ("BeamSearch", "Sampling", "Consensus")},
    "captions": range(1, 2**31),
    "distinct": bool,
    "seed": (_WHOLE, _NONE),
    "attention": ({"grid": [_WHOLE], "prefix": _WHOLE, "layers": _WHOLE}, _NONE),
    "tokens": {"special": [_WHOLE], "prompt": [_WHOLE]},
    "program": {"jax": str, "calling_convention": _WHOLE, "platforms": [str]},
    "files": {name: {"bytes": range(2**63)} for name in (PROGRAM, WEIGHTS, TOKENIZER)},
}


class ArtefactError(ValueError):
    """An artefact that can't be used; the message says why."""


def read_manifest(folder: str) -> dict[str, Any]:
    """Reads the manifest of a folder.

    Raises:
      ArtefactError: there is none, or it is damaged or of a newer version.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        _check_regular(path)
        if (size := os.path.getsize(path)) > _MOST_BYTES:
            raise ArtefactError(f"{path}: {size} bytes are more than the {_MOST_BYTES} taken")
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        version, kind = manifest["version"], manifest["format"]
        own = manifest.pop("sha256")
        right = own == digest(manifest)
    except ArtefactError:
        raise
    except OSError as error:
        raise ArtefactError(f"{path}: no artefact is here: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtefactError(f"{path}: is damaged, or of no artefact: {error!r:.300}") from error
    if kind != "capjax artefact":
        raise ArtefactError(f"{path}: is of no artefact: its format is {kind!r:.60}")
    if not isinstance(version, int) or version > VERSION:
        raise ArtefactError(
            f"{path}: is of version {version!r:.60}, and this runner reads {VERSION}: take the "
            "runner.py beside it"
        )
    if not right:
        raise ArtefactError(f"{path}: is damaged, or was edited: its sha256 is not its own")
    if field := _misfit(manifest, _FORM, ""):
        raise ArtefactError(f"{path}: its {field.removeprefix('.')} is missing, or of another kind")
    return manifest


def _misfit(value: Any, form: Any, name: str) -> str:
    """The dotted name of a field that is not of its form, or ""."""
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return name
        fields = (_misfit(value.get(key, ...), each, f"{name}.{key}") for key, each in form.items())
        return next(filter(None, fields), "")
    if isinstance(form, list):
        fits = isinstance(value, list) and not any(_misfit(each, form[0], name) for each in value)
    elif isinstance(form, tuple):
        fits = not all(_misfit(value, each, name) for each in form)
    elif isinstance(form, range):
        fits = type(value) is int and value in form
    else:
        fits = type(value) is form if isinstance(form, type) else value == form
    return "" if fits else name


def digest(manifest: dict[str, Any]) -> str:
    """The sha256 of a manifest without it."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def check_file(path: str, about: dict[str, Any]) -> None:
    """Raises ArtefactError for another file than the manifest is about."""
    try:
        _check_regular(path)
        # First, so that a file of any other size is not read.
        if (size := os.path.getsize(path)) != about["bytes"]:
            raise ArtefactError(f"{path}: has {size} bytes, and {about['bytes']} were written")
        if about_file(path) != about:
            raise ArtefactError(
                f"{path}: is damaged, or of another artefact: its sha256 is another"
            )
    except OSError as error:
        raise ArtefactError(f"{path}: can't be read: {error.strerror}") from error


def about_file(path: str) -> dict[str, Any]:
    """What a manifest says of a file."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": os.path.getsize(path), "sha256": found}


def _check_regular(path: str) -> None:
    """Raises ArtefactError for a pipe or a device, which may have no end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ArtefactError(f"{path}: is a pipe, a socket or a device, and no file")
