"""Captions images with the artefact in this folder, without capjax.

    python runner.py photo.jpg another.png
    python runner.py --json photo.jpg

In Python, where the caption's other fields are those of `Caption`:

    import runner
    artefact = runner.load("folder")
    print(artefact.caption(["photo.jpg"])[0].text)

It needs jax, numpy, pillow, tokenizers and safetensors, and JAX needs flatbuffers to read it.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import safetensors
from jax import export

from capjax.artefact.captioner import Captioner, run_command
from capjax.artefact.manifest import MANIFEST, WHOLE, ArtefactError, read_manifest

FORMAT = "capjax artefact"
PROGRAM, WEIGHTS = "program.jax", "weights.safetensors"
_FIELDS = {"program": {"jax": str, "calling_convention": WHOLE, "platforms": [str]}}


class Artefact(Captioner):
    """A loaded artefact; see `load`."""

    def __init__(self, folder: str, manifest: dict[str, Any], program: Any, weights: Any):
        super().__init__(folder, manifest)
        self._program = jax.jit(program.call)  # Compiles once for each number of images.
        self._weights = jax.device_put(weights)

    def run(
        self, pixels: np.ndarray, seed: int | None = None, *, index: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs the program; see `Captioner.run`."""
        places = np.asarray(range(len(pixels)) if index is None else index, np.int32)
        if seed is None:
            seed = self.manifest["seed"] or 0
        found = self._program(self._weights, pixels, places, np.int32(seed))
        return {name: np.asarray(array) for name, array in found.items()}


def load(directory: str | os.PathLike) -> Artefact:
    """Loads the artefact in a folder.

    Raises:
      ArtefactError: a file is missing, damaged or of another artefact; or it is of a newer version,
        or not for this version of JAX or this platform.
    """
    folder = os.fspath(directory)
    manifest = read_manifest(folder, FORMAT, (PROGRAM, WEIGHTS), _FIELDS)
    made = f"it was written by JAX {manifest['program']['jax']}, and here is {jax.__version__}"
    version = manifest["program"]["calling_convention"]
    least = export.minimum_supported_calling_convention_version
    if not least <= version <= export.maximum_supported_calling_convention_version:
        raise ArtefactError(
            f"{folder}: this JAX can't run its calling convention {version}: {made}"
        )
    here, platforms = jax.default_backend(), manifest["program"]["platforms"]
    if not {"gpu": {"cuda", "rocm"}}.get(here, {here}) & {*platforms}:
        raise ArtefactError(f"{folder}: is for {', '.join(platforms)}, and here is {here}")
    try:
        with open(os.path.join(folder, PROGRAM), "rb") as file:
            program = export.deserialize(bytearray(file.read()))
        program.mlir_module()  # Of too new a JAX, it fails here.
        with safetensors.safe_open(os.path.join(folder, WEIGHTS), framework="np") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        given, pixels, *_ = jax.tree.unflatten(program.in_tree, program.in_avals)[0]
        wanted = {name: (like.shape, like.dtype) for name, like in given.items()}
        artefact = Artefact(folder, manifest, program, weights)
    except Exception as error:  # Each library raises its own.
        raise ArtefactError(f"{folder}: can't be read: {error}; {made}") from error
    if {name: (array.shape, array.dtype) for name, array in weights.items()} != wanted:
        raise ArtefactError(f"{folder}: {WEIGHTS} does not hold the weights of {PROGRAM}")
    if pixels.shape[1:] != artefact.shape:
        raise ArtefactError(f"{folder}: {PROGRAM} takes images of other sizes than {MANIFEST} says")
    return artefact


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this file; see `run_command`."""
    return run_command(load, argv)


if __name__ == "__main__":
    sys.exit(main())
