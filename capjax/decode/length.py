"""Length normalisation of sums of log-probabilities."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

LengthNormalization = Literal["power", "gnmt"]


def length_norms(
    steps: int, length_penalty: float, normalization: LengthNormalization = "power"
) -> jax.Array:
    """What the sum of a caption of n = 1 ... `steps` generated tokens is divided by.

    Args:
      steps: the most tokens.
      length_penalty: the exponent; above 0 favours longer captions, 0 is the plain sum.
      normalization: "power" for n ** length_penalty, as in transformers, whose 1 is the mean;
        "gnmt" for ((5 + n) / 6) ** length_penalty, equation 14 of Wu et al. 2016.

    Returns:
      float32 [steps], which rise or fall with n as the sign of `length_penalty` says.

    Raises:
      ValueError: an unknown normalization.
    """
    if normalization not in get_args(LengthNormalization):
        raise ValueError(f'length_normalization must be "power" or "gnmt", not {normalization!r}')
    # float64, as in transformers; float32 powers of a traced length are inexact.
    lengths = np.arange(1, steps + 1, dtype=np.float64)
    if normalization == "gnmt":
        lengths = (5 + lengths) / 6
    return jnp.asarray(lengths**length_penalty, jnp.float32)
