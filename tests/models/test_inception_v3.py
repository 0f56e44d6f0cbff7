"""InceptionV3 equals Keras's, layer by layer."""

import functools

import jax
import numpy as np
import pytest

from capjax.models.encoders.inception_v3 import InceptionV3
from tests.helpers.keras_inception import layers_by_creation, random_inception

keras = pytest.importorskip("keras", reason="the reference implementation is Keras's")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def arrays(layer):
    return [np.asarray(array) for array in layer.get_weights()]


MORE = functools.partial(
    pytest.param, marks=pytest.mark.slow(reason="another size is compared every day")
)


@pytest.fixture(scope="module", name="pair")
def make_pair():
    """Keras's model, and its weights laid out by hand."""
    model = random_inception(keras)
    params, statistics = {}, {}
    for name, layer in layers_by_creation(model).items():
        if name.startswith("conv2d"):
            (kernel,) = arrays(layer)
            params[name] = {"kernel": kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel}
        else:
            beta, mean, variance = arrays(layer)
            params[name] = {"bias": beta}
            statistics[name] = {"mean": mean, "var": variance}
    return model, {"params": params, "batch_stats": statistics}


@pytest.mark.parametrize("size", [(96, 75), MORE((139, 203))])
def test_every_layer_equals_keras(pair, size):
    model, variables = pair
    images = np.random.default_rng(2).integers(0, 256, (2, *size, 3), np.uint8)
    memory, seen = jax.jit(
        lambda v, x: InceptionV3().apply(
            v, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, images)
    layers = layers_by_creation(model)
    assert len(layers) == 188
    taps = keras.Model(model.input, [layer.output for layer in layers.values()] + [model.output])
    *stages, last = taps(images.astype(np.float32) / 127.5 - 1, training=False)
    for name, theirs in zip(layers, map(np.asarray, stages), strict=True):
        (ours,) = seen["intermediates"][name]["__call__"]
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name
        assert 1e-2 < theirs.std() < 1e2, name
    last = np.asarray(last)
    assert memory.grid == last.shape[1:3]
    assert np.abs(memory.values - last.reshape(memory.values.shape)).max() <= 1e-4 * last.max()


def test_the_map_is_the_one_before_pooling(pair):
    images = jax.ShapeDtypeStruct((3, 299, 299, 3), np.uint8)
    memory = jax.eval_shape(lambda x: InceptionV3().apply(pair[1], x, train=False), images)
    assert memory.values.shape == (3, 64, 2048)
    assert memory.grid == (8, 8)


def test_training_computes_the_same(pair):
    images = np.zeros((1, 75, 75, 3), np.uint8)

    def program(train):
        return str(jax.make_jaxpr(lambda v: InceptionV3().apply(v, images, train=train))(pair[1]))

    assert program(True) == program(False)


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match=r"75x75 or more, not 80x74"):
        InceptionV3().init(jax.random.key(0), np.zeros((1, 80, 74, 3), np.uint8), train=False)
