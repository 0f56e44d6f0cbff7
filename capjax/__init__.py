"""Image captioning in JAX: train, decode, score, and see where the model looked.

run = capjax.load("runs/shapes_transformer")
captions = run.caption(["photo.jpg"], attention=True)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capjax.evaluate.captioning import Caption
    from capjax.evaluate.control import Control
    from capjax.evaluate.methods import BeamSearch, Consensus, Sampling
    from capjax.run.ensemble import ensemble
    from capjax.run.load import Run, load

    __version__: str

__all__ = [
    "BeamSearch",
    "Caption",
    "Consensus",
    "Control",
    "Run",
    "Sampling",
    "__version__",
    "ensemble",
    "load",
]

# Imported at first use: `--help` and config files need no JAX.
_MODULES = {
    "BeamSearch": "capjax.evaluate.methods",
    "Caption": "capjax.evaluate.captioning",
    "Consensus": "capjax.evaluate.methods",
    "Control": "capjax.evaluate.control",
    "Sampling": "capjax.evaluate.methods",
    "Run": "capjax.run.load",
    "ensemble": "capjax.run.ensemble",
    "load": "capjax.run.load",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("capjax")
    raise AttributeError(f"module 'capjax' has no attribute {name!r}")
