"""An artefact behind the server, without what training needs: no Flax, Orbax or TensorFlow."""

import types
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from capjax.artefact.manifest import MOST_SEED
from capjax.artefact.runner import Artefact
from capjax.data.resize import Resize
from capjax.serve.served import (
    Program,
    Seen,
    ServedError,
    SettingsError,
    doubled,
    flat,
    read_image,
)


class ServedArtefact:
    """See `capjax.serve.served.Served`. A method is the seed of its samples."""

    def __init__(self, name: str, artefact: Artefact):
        self.name, self._artefact = name, artefact
        self._manifest = artefact.manifest
        self.about = self._manifest["about"]
        self.parameters = self._manifest["parameters"]
        self.attends = self._manifest["attention"] is not None
        self.shape: tuple[int, ...] = artefact.shape
        self._resize = Resize(**self._manifest["preprocessing"])
        self._decoding = flat(self._manifest["decoding"])

    def settings(self) -> list[dict[str, Any]]:
        if self._manifest["seed"] is None:
            return []
        about = "seed of the samples"
        return [{"name": "seed", "about": about, "kind": "int", "least": 0, "most": MOST_SEED}]

    def defaults(self) -> dict[str, Any]:
        return self.described(self.method({}))

    def method(self, settings: Mapping[str, Any]) -> Hashable:
        offered = [setting["name"] for setting in self.settings()]
        if unknown := sorted(settings.keys() - offered):
            there = (
                f"there is {offered[0]!r}" if offered else "its method is a part of the artefact"
            )
            raise SettingsError(f"there is no setting {unknown[0]!r:.80}: {there}")
        seed = settings.get("seed", self._manifest["seed"] or 0)
        if type(seed) is not int or not 0 <= seed <= MOST_SEED:
            raise SettingsError(f"seed={seed!r:.80} must be a whole number of 0 to {MOST_SEED}")
        return seed

    def described(self, method: Any) -> dict[str, Any]:
        found = self._decoding
        return found if self._manifest["seed"] is None else {**found, "seed": method}

    def kind(self, method: Any) -> Hashable:
        return None

    def program(self, *, attention: bool) -> Program:
        where = self._manifest["attention"] or {}

        def caption(seed: int, pixels: np.ndarray, index: np.ndarray) -> list[Any]:
            arrays = self._artefact.run(pixels, seed, index=index.tolist())
            rows = zip(self._artefact.captions(arrays), index, strict=True)
            return [_with(caption, where) for caption, place in rows if place >= 0]

        return caption

    def sizes(self, most: int) -> list[int]:
        return doubled(most)

    def read(self, content: bytes, name: str) -> tuple[np.ndarray, Seen]:
        return read_image(content, name, self._resize)


def _with(caption: Any, where: Mapping[str, Any]) -> Any:
    """A caption with the grid of its attention; or its error, as one of the server's."""
    if isinstance(caption, Exception):
        return ServedError(str(caption))
    return types.SimpleNamespace(**vars(caption), **where)
