"""Image captioning in JAX: train, decode, score, and see where the model looked.

run = capjax.load("runs/shapes_transformer")
captions = run.caption(["photo.jpg"], attention=True)
"""

from capjax.evaluate.captioning import BeamSearch, Caption, Sampling
from capjax.run.load import Run, load

__all__ = ["BeamSearch", "Caption", "Run", "Sampling", "load"]
