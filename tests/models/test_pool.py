"""Adaptive average pooling equals torch's, and what must hold of any pooling."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capjax.models.pool import adaptive_avg_pool
from tests.helpers.effort import examples

SIDE = st.integers(1, 17)


def image(rows, columns):
    return np.random.default_rng(0).normal(size=(2, rows, columns, 3)).astype(np.float32)


@settings(max_examples=examples(25), deadline=None)
@given(SIDE, SIDE, SIDE, SIDE)
def test_it_is_torchs(rows, columns, high, wide):
    torch = pytest.importorskip("torch", reason="the reference is torch's layer")
    x = image(rows, columns)
    theirs = torch.nn.AdaptiveAvgPool2d((high, wide))(torch.from_numpy(x).permute(0, 3, 1, 2))
    ours = adaptive_avg_pool(x, (high, wide))
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-6)


def test_cells_are_as_defined():
    """Without torch: floors and ceilings, cell by cell."""
    x = image(5, 8)
    pooled = adaptive_avg_pool(x, (3, 14))
    for i in range(3):
        for j in range(14):
            cell = x[:, i * 5 // 3 : -(-(i + 1) * 5 // 3), j * 8 // 14 : -(-(j + 1) * 8 // 14)]
            np.testing.assert_allclose(pooled[:, i, j], cell.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_its_own_grid_changes_nothing():
    x = image(4, 7)
    np.testing.assert_array_equal(adaptive_avg_pool(x, (4, 7)), x)
    assert adaptive_avg_pool(x.astype(jnp.bfloat16), (2, 2)).dtype == jnp.bfloat16


def test_a_grid_has_cells():
    with pytest.raises(ValueError, match="grid=0x3 must have sides of 1 or more"):
        adaptive_avg_pool(image(4, 4), (0, 3))
