"""Encoders: shapes, positions, errors, and that images of a batch do not mix."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.models.captioner import FeatureEncoder
from capjax.models.depthwise import grouped, shifted
from capjax.models.encoders.conv import ConvEncoder, contrasts
from capjax.models.encoders.inception_v3 import InceptionV3
from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.models.encoders.patch import PatchEncoder, scale_pixels
from capjax.models.encoders.resnet import ResNet
from capjax.models.layers import Dropout, sincos_positions
from capjax.models.stem import convolved, summed
from capjax.parts.check import fault
from capjax.parts.types import DropoutRate
from tests.helpers.effort import sweep

SIZES = [(1, 4), (5, 2), (6, 7), (9, 8)]
DEEP = [InceptionV3(), ResNet(50)]
ENCODERS = {
    "learned": (PatchEncoder(8, 16, 2, 2), (2, 4), 0, 16),
    "sincos": (PatchEncoder(4, 16, 1, 2, positions="sincos"), (4, 8), 0, 16),
    "class": (PatchEncoder(8, 16, 2, 2, class_token=True), (2, 4), 1, 16),
    "conv": (ConvEncoder((8, 16), 1, stem_stride=2, groups=4), (4, 8), 0, 16),
    "deep conv": (ConvEncoder((8, 16, 24), 2, stem_stride=2, groups=4), (2, 4), 0, 24),
    "contrast": (ConvEncoder((8, 16), 1, stem_stride=2, groups=4, contrast=True), (4, 8), 0, 16),
}


def pictures(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 32, 3), np.uint8)


@pytest.mark.parametrize("name", sweep(ENCODERS, ["class", "conv"]))
def test_memory_shape_and_rows(name):
    encoder, grid, prefix, width = ENCODERS[name]
    images = pictures()
    variables = jax.jit(partial(encoder.init, train=False))(jax.random.key(0), images)
    encode = jax.jit(partial(encoder.apply, train=False))
    memory = encode(variables, images)
    assert memory.grid == grid
    assert memory.prefix == prefix
    assert memory.values.shape == (3, prefix + grid[0] * grid[1], width)
    alone = encode(variables, images[1:2])
    np.testing.assert_allclose(alone.values[0], memory.values[1], atol=1e-5)


def test_contrasts_are_blind_to_hue_and_brightness():
    x = scale_pixels(pictures(), jnp.float32)
    distance, edge = jnp.moveaxis(contrasts(x), -1, 0)
    assert distance.shape == edge.shape == (3, 16, 32)
    assert distance.std() > 0.1
    np.testing.assert_allclose(distance.mean((1, 2)), 0.0, atol=1e-5)
    for same, scale in ((x[..., ::-1], 1), (x + jnp.array([0.1, -0.3, 0.2]), 1), (-2 * x, 2)):
        np.testing.assert_allclose(contrasts(same)[..., 0], distance, atol=1e-4)
        np.testing.assert_allclose(contrasts(same)[..., 1], scale * edge, atol=1e-3)


def test_contrasts_are_those_by_hand():
    x = jnp.zeros((1, 3, 4, 3)).at[0, 1, 1].set(jnp.array([3.0, 4.0, 0.0]))
    edge = np.zeros((3, 4))
    edge[[1, 1, 0, 2], [0, 2, 1, 1]] = 5.0
    np.testing.assert_allclose(contrasts(x)[0, ..., 1], edge, atol=2e-3)
    assert contrasts(x)[0, 1, 1, 0] == contrasts(x)[0, ..., 0].max()
    np.testing.assert_allclose(contrasts(jnp.ones((1, 4, 4, 3))), 0.0, atol=2e-3)


def test_patches_lie_by_rows():
    """The gradient of a position's embedding, without attention, reaches its own patch alone."""
    encoder = PatchEncoder(8, 16, 0, 2)
    image = pictures(1)
    variables = encoder.init(jax.random.key(0), image, train=False)
    before = encoder.apply(variables, image, train=False).values[0]
    for position, (row, column) in enumerate((r, c) for r in range(2) for c in range(4)):
        changed = image.copy()
        changed[0, row * 8 + 3, column * 8 + 5] ^= 255
        after = encoder.apply(variables, changed, train=False).values[0]
        moved = np.flatnonzero(np.abs(after - before).max(-1) > 1e-6)
        assert moved.tolist() == [position]


def test_patch_embedding_is_a_strided_convolution():
    encoder = PatchEncoder(8, 16, 0, 2, positions="sincos")
    image = pictures(2)
    variables = encoder.init(jax.random.key(0), image, train=False)
    dense = variables["params"]["patch_embedding"]
    kernel = dense["kernel"].reshape(8, 8, 3, 16)
    convolved = jax.lax.conv_general_dilated(
        scale_pixels(image, jnp.float32),
        kernel,
        (8, 8),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = convolved.reshape(2, 8, 16) + dense["bias"] + sincos_positions((2, 4), 16)
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    values = encoder.apply(variables, image, train=False).values
    np.testing.assert_allclose(values, x, atol=1e-4)


def test_sincos_positions_tell_rows_and_columns_apart():
    table = sincos_positions((3, 5), 16)
    assert table.shape == (15, 16)
    assert len(np.unique(table.round(5), axis=0)) == 15
    # The column's half is equal down a column, the row's along a row.
    grid = table.reshape(3, 5, 16)
    np.testing.assert_allclose(grid[0, :, :8], grid[2, :, :8])
    np.testing.assert_allclose(grid[:, 0, 8:], grid[:, 4, 8:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchEncoder(7, 16, 1, 2), "patch_size=7 must divide the image size 16x32"),
        (lambda: PatchEncoder(8, 16, 1, 2, positions="none"), "must be one of 'learned', 'sincos'"),
        (lambda: PatchEncoder(8, 18, 1, 2, positions="sincos"), "divisible by 4"),
        (lambda: PatchEncoder(8, 16, 1, 3), "num_heads=3 must divide width=16"),
        (lambda: ConvEncoder((10,), 1, groups=4), r"widths=\(10,\) must be multiples of groups=4"),
        (InceptionV3, "75x75 or more, not 16x32"),
        (lambda: MobileNetV3("medium"), "size='medium' must be one of 'small', 'large'"),
        (lambda: ResNet(18), "depth=18 must be one of 50, 101, 152"),
    ],
)
def test_errors_say_what_would_work(make, message):
    with pytest.raises(ValueError, match=message):
        make().init(jax.random.key(0), pictures(1), train=False)


@pytest.mark.parametrize("encoder", sweep(DEEP, DEEP[1:]))
def test_training_computes_the_same(encoder):
    images = np.zeros((1, 75, 75, 3), np.uint8)
    variables = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))

    def program(train):
        return str(jax.make_jaxpr(lambda v: encoder.apply(v, images, train=train))(variables))

    assert program(True) == program(False)


@pytest.mark.parametrize(("height", "width"), sweep(SIZES, SIZES[1:3]))
def test_forms_of_a_convolution_agree(height, width):
    """A depthwise one as shifted sums, and the first one as summed images."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, height, width, 3)), jnp.float32)
    for stride, side in ((1, 3), (1, 5), (2, 3), (2, 5)):
        kernel = jnp.asarray(rng.normal(size=(side, side, 1, 3)), jnp.float32)
        pair = shifted(x, kernel, stride), grouped(x, kernel, stride)
        np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-5)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)
    np.testing.assert_allclose(summed(x, kernel), convolved(x, kernel), rtol=1e-4, atol=1e-5)


def test_features_must_fit_their_grid():
    with pytest.raises(ValueError, match="5 positions, not 6"):
        FeatureEncoder((2, 3)).apply({}, jnp.zeros((1, 5, 4)), train=False)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1000, 37), (3, 7, 1001)])
def test_dropout_drops_its_share_and_keeps_the_mean(rate, shape):
    x = jnp.ones(shape)
    apply = jax.jit(lambda key: Dropout(rate).apply({}, x, train=True, rngs={"dropout": key}))
    y = np.asarray(apply(jax.random.key(0)))
    share = round(rate * 256) / 256
    assert abs((y == 0).mean() - share) < 5 * np.sqrt(share * (1 - share) / y.size)
    np.testing.assert_allclose(y[y > 0], 1 / (1 - share), rtol=1e-6)
    # Neighbours, which share a random word, fall independently.
    both = ((y == 0)[..., :-1] & (y == 0)[..., 1:]).mean()
    assert abs(both - share**2) < 0.02
    assert (np.asarray(apply(jax.random.key(1))) != y).any()


@pytest.mark.parametrize("rate", [0.001, 0.999, 1.0])
def test_dropout_refuses_a_rate_that_it_does_not_have(rate):
    x = jnp.ones(4)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, train=False), x)
    with pytest.raises(ValueError, match=rf"{rate} is none: it must be 0, or lie in 1/256"):
        Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert fault(DropoutRate, rate)
    assert not any(fault(DropoutRate, valid) for valid in (0, 0.0, 1 / 256, 0.1, 255 / 256))
