"""What the writer of an artefact can choose from. Imports no JAX, for the command line."""

from typing import Literal, get_args

# Types of the weights in the file.
Weights = Literal["float32", "bfloat16", "int8"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
# Platforms that a program can be lowered for, and those that it is lowered for by default.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
USUAL_PLATFORMS = ("cpu", "cuda", "tpu")
