"""A convolution with its norm equals flax's two modules, as a product and as a convolution."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from capjax.models.normed_convolution import normed_convolution
from capjax.parallel.platform import traced_for

EPSILON = 1e-2


class Ours(nn.Module):
    sides: tuple[int, int]
    stride: int
    use_scale: bool

    @nn.compact
    def __call__(self, x):
        convolve = normed_convolution(np.float32, EPSILON, use_scale=self.use_scale)
        return convolve(x, 5, ("conv", "norm"), self.sides, self.stride)


class Theirs(Ours):
    @nn.compact
    def __call__(self, x):
        fields = {"use_bias": False, "name": "conv"}
        if self.sides == (1, 1):
            x = nn.Dense(5, **fields)(x[:, :: self.stride, :: self.stride])
        else:
            x = nn.Conv(5, self.sides, (self.stride, self.stride), **fields)(x)
        norm = {"epsilon": EPSILON, "use_scale": self.use_scale, "name": "norm"}
        return nn.BatchNorm(use_running_average=True, **norm)(x)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize(("sides", "stride"), [((1, 1), 1), ((1, 1), 2), ((3, 1), 1), ((3, 3), 2)])
def test_it_equals_flaxs_modules(sides, stride, use_scale, platform):
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    ours, theirs = Ours(sides, stride, use_scale), Theirs(sides, stride, use_scale)
    with traced_for(platform):
        made = [model.init(jax.random.key(0), x) for model in (ours, theirs)]
        jax.tree.map(np.testing.assert_array_equal, *made)
        rng = np.random.default_rng(1)
        variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape), made[0])

        def loss(params, model):
            y = model.apply({**variables, "params": params}, x)
            return (y**2).sum(), y

        results = [
            jax.grad(loss, has_aux=True)(variables["params"], model) for model in (ours, theirs)
        ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *results)
