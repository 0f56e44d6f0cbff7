"""All that a training step needs beside its batch, as one tree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from capjax.models.captioner import Variables, join_frozen


@struct.dataclass
class TrainState:
    """What a step replaces, which a checkpoint holds, and beside it what stays.

    Attributes:
      step: int32 scalar, updates done.
      params: of the captioner.
      opt_state: of the optimizer.
      ema: the moving average of the parameters, or None when it is off.
      frozen: variables that training does not change; a run keeps them once, in no checkpoint.
      baseline: of hard attention, the moving average of a token's log-probability; None elsewhere.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    frozen: Variables = struct.field(default_factory=dict)
    baseline: jax.Array | None = None

    @property
    def eval_variables(self) -> Variables:
        """What to evaluate and caption with: the average of the parameters where there is one."""
        return join_frozen(self.params if self.ema is None else self.ema, self.frozen)


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    ema: bool,
    frozen: Variables | None = None,
    baseline: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      params: to train.
      optimizer: whose state it will hold.
      ema: whether it averages the parameters, starting at these.
      frozen: variables that stay.
      baseline: whether the model draws locations, as hard attention does.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        # A copy: a donated buffer may not serve twice.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        frozen=frozen or {},
        baseline=jnp.zeros(()) if baseline else None,
    )


def update_ema(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """The next average. The decay grows from 0.1 to `decay`, so that early averages keep up."""
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)


def update_baseline(baseline: jax.Array, log_prob: jax.Array, step: jax.Array) -> jax.Array:
    """The next average of a token's log-probability, with the paper's decay of 0.9.

    "Show, Attend and Tell" (Xu et al. 2015), section 4.1. Early averages keep up, as in
    `update_ema`.
    """
    decay = jnp.minimum(0.9, (1 + step) / (10 + step))
    return baseline + (1 - decay) * (log_prob - baseline)
