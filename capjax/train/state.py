"""The training state: everything a training step needs besides its batch, as one tree."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from capjax.models.captioner import Captioner, Variables, join_frozen
from capjax.models.stacks import stacked, stacks_of

if TYPE_CHECKING:
    import optax


@struct.dataclass
class TrainState:
    """Training state. Checkpoints hold all of it except `frozen` and `constants`.

    Attributes:
      step: int32 scalar, number of updates done.
      params: trained parameters of the captioner.
      opt_state: state of the optimizer.
      ema: moving average of the parameters, or None if it is disabled.
      frozen: variables that training does not change, stored once for a run.
      baseline: moving average of the log-probability of a token, for hard attention; else None.
      constants: what `Prepared.prepare` of the objective made for this start; None without it.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    frozen: Variables = struct.field(default_factory=dict)
    baseline: jax.Array | None = None
    constants: Any = None

    @property
    def eval_variables(self) -> Variables:
        """Variables for evaluation: the moving average if enabled, otherwise the parameters."""
        return join_frozen(self.params if self.ema is None else self.ema, self.frozen)


def init_state(
    params: Any,
    optimizer: "optax.GradientTransformation",
    ema: bool,
    frozen: Variables | None = None,
    baseline: bool = False,
) -> TrainState:
    """Creates the state before the first step.

    Args:
      params: parameters to train.
      optimizer: initialises `opt_state`.
      ema: True to keep a moving average, starting at `params`.
      frozen: variables that training does not change.
      baseline: True to keep a baseline, for hard attention.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=jax.jit(optimizer.init)(params),  # Array by array takes seconds.
        # A copy, since a buffer must not be donated twice.
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        frozen=frozen or {},
        baseline=jnp.zeros(()) if baseline else None,
    )


def stack_blocks(model: Captioner, state: TrainState) -> TrainState:
    """A state that has the equal blocks of its captioner stacked; see `models.stacks`."""
    return stacked(state, stacks_of(model, state.params, state.frozen))


def update_ema(ema: Any, params: Any, step: jax.Array, decay: float) -> Any:
    """Next moving average. The decay grows from 0.1 to `decay`, to follow early changes."""
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), ema, params)


def update_baseline(baseline: jax.Array, log_prob: jax.Array, step: jax.Array) -> jax.Array:
    """Next moving average of the log-probability of a token.

    The decay grows from 0.1, as in `update_ema`, to the 0.9 of "Show, Attend and Tell" (Xu et al.
    2015, section 4.1).
    """
    decay = jnp.minimum(0.9, (1 + step) / (10 + step))
    return baseline + (1 - decay) * (log_prob - baseline)
