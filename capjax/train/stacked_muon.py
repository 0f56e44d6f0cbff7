"""Muon over stacks of matrices of one shape: the same updates in far fewer operations.

`optax.contrib.muon` orthogonalises one matrix after the other, which is most of what a training
step of a small model compiles.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# Jordan et al. 2024: a quintic iteration whose slope at 0 is as large as possible.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95


class StackedMuonState(NamedTuple):
    """The number of updates, and the mean of the gradients."""

    count: jax.Array
    mean: Any


def scale_by_stacked_muon(epsilon: float = 1e-8) -> optax.GradientTransformation:
    """`optax.contrib.scale_by_muon` and its scale by shape; the last axis of a leaf is the output.

    Args:
      epsilon: added to the norm by which a matrix is divided.
    """

    def init(params: Any) -> StackedMuonState:
        return StackedMuonState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(
        updates: Any, state: StackedMuonState, params: Any = None
    ) -> tuple[Any, StackedMuonState]:
        del params
        mean = optax.tree.update_moment(updates, state.mean, _MOMENTUM, 1)
        count = optax.safe_increment(state.count)
        # Nesterov's momentum, without the bias of the first steps.
        ahead = optax.tree.bias_correction(mean, _MOMENTUM, optax.safe_increment(count))
        now = optax.tree.bias_correction(updates, _MOMENTUM, count)
        momentum = jax.tree.map(lambda m, g: _MOMENTUM * m + (1 - _MOMENTUM) * g, ahead, now)
        return orthogonalized(momentum, epsilon), StackedMuonState(count, mean)

    return optax.GradientTransformation(init, update)


def orthogonalized(tree: Any, epsilon: float) -> Any:
    """Leaves [..., F] with singular values near 1, times max(1, F / inputs) ** 0.5."""
    leaves, structure = jax.tree.flatten(tree)
    matrices = [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves]
    stacks = defaultdict(list)
    for place, matrix in enumerate(matrices):
        stacks[min(matrix.shape), max(matrix.shape)].append(place)
    found = dict[int, jax.Array]()
    for places in stacks.values():
        wide = [m.T if m.shape[0] > m.shape[1] else m for m in (matrices[p] for p in places)]
        for place, new in zip(places, _iterate(jnp.stack(wide), epsilon), strict=True):
            rows, columns = matrices[place].shape
            new = new.T if rows > columns else new
            found[place] = (new * max(1, columns / rows) ** 0.5).reshape(leaves[place].shape)
    return jax.tree.unflatten(structure, [found[place] for place in range(len(leaves))])


def _iterate(x: jax.Array, epsilon: float) -> jax.Array:
    """Newton-Schulz iterations on matrices [G, m, n], m <= n."""
    x /= jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + epsilon
    a, b, c = _COEFFICIENTS

    def iteration(_: jax.Array, x: jax.Array) -> jax.Array:
        square = jnp.einsum("gij,gkj->gik", x, x)
        return a * x + (b * square + c * square @ square) @ x

    return jax.lax.fori_loop(0, _ITERATIONS, iteration, x)
