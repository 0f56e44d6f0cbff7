"""Schedules of the probability that training feeds a decoder its own words.

"Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks" (Bengio et al. 2015),
section 2.4.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from capjax.parts.types import NotNegative, Share


def own_words_schedule(
    *,
    kind: Literal["none", "linear", "exponential", "inverse_sigmoid"],
    k: NotNegative,
    slope: NotNegative,
    floor: Share,
) -> Callable[[jax.Array], jax.Array] | None:
    """Schedule from step i to the probability of feeding a sampled token, 1 - epsilon_i.

    Args:
      kind: "linear" (epsilon_i = max(floor, k - slope i)), "exponential" (k^i),
        "inverse_sigmoid" (k / (k + exp(i / k))), or "none", which returns None.
      k: see `kind`.
      slope: for "linear" only.
      floor: for "linear" only.

    Raises:
      ValueError: a number is outside the range of the schedule.
    """
    if kind == "none":
        return None
    if kind == "linear":
        if not (0 <= floor <= k <= 1 and slope >= 0):
            raise ValueError(
                f"scheduled_sampling of kind 'linear' needs 0 <= floor <= k <= 1 and slope >= 0, "
                f"not floor={floor}, k={k}, slope={slope}"
            )
        return lambda step: 1 - jnp.maximum(floor, k - slope * step)
    if kind == "exponential":
        if not 0 < k < 1:
            raise ValueError(f"scheduled_sampling of kind 'exponential' needs 0 < k < 1, not k={k}")
        return lambda step: 1 - jnp.float32(k) ** step
    if kind != "inverse_sigmoid":
        raise ValueError(
            f"scheduled_sampling.kind={kind!r} must be 'none', 'linear', 'exponential' or "
            "'inverse_sigmoid'"
        )
    # The paper has k >= 1, but with k = 1 no references are fed after five steps.
    if k <= 1:
        raise ValueError(
            f"scheduled_sampling of kind 'inverse_sigmoid' needs k > 1, not k={k}: after about "
            "k steps references and own words are equally frequent"
        )
    # Equal to the formula, without an exponential that overflows.
    return lambda step: 1 - jax.nn.sigmoid(jnp.log(k) - step / k)
