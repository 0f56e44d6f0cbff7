"""MobileNetV3 equals Keras's, layer by layer, and both forms of a first convolution agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.models.stem import convolved, summed
from capjax.pretrained.encoders import load_encoder
from tests.helpers.effort import sweep
from tests.helpers.keras_random import randomize

keras = pytest.importorskip("keras", reason="the reference implementation is Keras's")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("size", [(1, 4), (5, 2), (6, 7), (9, 8)])
def test_summed_images_are_the_convolution(size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)
    np.testing.assert_allclose(summed(x, kernel), convolved(x, kernel), rtol=1e-4, atol=1e-5)


CASES = [("small", 1.3, (64, 64), 86), ("large", 0.75, (65, 98), 108)]


@pytest.mark.parametrize(("size", "alpha", "shape", "count"), sweep(CASES, CASES[:1]))
def test_every_layer_equals_keras(size, alpha, shape, count, tmp_path):
    model = getattr(keras.applications, f"MobileNetV3{size.capitalize()}")(
        weights=None, include_top=False, input_shape=(*shape, 3), alpha=alpha
    )
    randomize(model, seed=1)
    model.save_weights(tmp_path / "w.weights.h5")
    encoder = MobileNetV3(size, alpha)
    variables = load_encoder(encoder, str(tmp_path / "w.weights.h5"), 224)
    images = np.random.default_rng(2).integers(0, 256, (2, *shape, 3), np.uint8)
    memory, seen = jax.jit(
        lambda v, x: encoder.apply(
            v, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, images)
    # Every layer with weights: Keras calls them what our modules are called.
    names = [layer.name for layer in model.layers if layer.get_weights()]
    assert len(names) == count
    taps = keras.Model(model.input, [model.get_layer(n).output for n in names] + [model.output])
    *stages, last = map(np.asarray, taps(images.astype(np.float32), training=False))
    for name, theirs in zip(names, stages, strict=True):
        (ours,) = seen["intermediates"][name]["__call__"]
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name
    assert memory.grid == last.shape[1:3]
    assert memory.values.shape[-1] == last.shape[-1]
    assert np.abs(memory.values - last.reshape(memory.values.shape)).max() <= 1e-4 * last.max()
    assert last.std() > 1e-3


def test_features_are_as_wide_as_said():
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    for size, features in (("small", 576), ("large", 960)):
        encoder = MobileNetV3(size)
        memory, _ = jax.eval_shape(
            lambda x, encoder=encoder: encoder.init_with_output(jax.random.key(0), x, train=False),
            images,
        )
        assert memory.values.shape == (1, 49, features)
        assert memory.grid == (7, 7)


def test_another_size_is_refused():
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    with pytest.raises(ValueError, match="size='medium' must be one of 'small', 'large'"):
        MobileNetV3("medium").init(jax.random.key(0), images, train=False)


@pytest.fixture(scope="module", name="narrow")
def make_narrow(tmp_path_factory):
    """Variables of a MobileNetV3-Small of a third of the width, images, and Keras's features."""
    model = keras.applications.MobileNetV3Small(
        weights=None, include_top=False, input_shape=(33, 70, 3), alpha=0.35
    )
    randomize(model)
    path = tmp_path_factory.mktemp("weights") / "w.weights.h5"
    model.save_weights(path)
    images = np.random.default_rng(2).integers(0, 256, (1, 33, 70, 3), np.uint8)
    theirs = np.asarray(model(images.astype(np.float32), training=False))
    variables = load_encoder(MobileNetV3("small", 0.35), str(path), 64)
    return variables, images, theirs.reshape(1, -1, theirs.shape[-1])


def test_gradients_reach_the_first_layer(narrow):
    variables, images, _ = narrow

    @jax.jit
    def gradient(first):
        def total(first):
            params = {**variables["params"], "conv": first}
            encoder = MobileNetV3("small", 0.35)
            return encoder.apply({**variables, "params": params}, images, train=True).values.sum()

        return jax.grad(total)(first)

    found = gradient(variables["params"]["conv"])["kernel"]
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


def test_half_precision_is_close(narrow):
    variables, images, theirs = narrow
    encoder = MobileNetV3("small", 0.35, dtype=jnp.bfloat16)
    found = jax.jit(lambda v: encoder.apply(v, images, train=False).values)(variables)
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(np.float32) - theirs).max() < 0.1 * np.abs(theirs).max()
