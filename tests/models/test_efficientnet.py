"""EfficientNet-B0 equals Keras's, layer by layer, with the pixels' statistics of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.models.encoders.efficientnet_b0 import EfficientNetB0
from capjax.pretrained.encoders import load_encoder
from tests.helpers.effort import sweep
from tests.helpers.keras_random import randomize

keras = pytest.importorskip("keras", reason="the reference implementation is Keras's")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


SIZES = [((64, 64), 0), ((65, 98), 1)]


@pytest.mark.parametrize(("shape", "seed"), sweep(SIZES, SIZES[1:]))
def test_every_layer_equals_keras(shape, seed, tmp_path):
    model = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=(*shape, 3)
    )
    randomize(model, seed)
    rng = np.random.default_rng(seed)
    # Of a dataset of one's own, as `adapt` counts them.
    statistics = [rng.uniform(0.2, 0.8, 3), rng.uniform(0.02, 0.2, 3), np.array(7)]
    normalization = next(x for x in model.layers if x.name.startswith("normalization"))
    normalization.set_weights(statistics)
    normalization.finalize_state()
    model.save_weights(tmp_path / "w.weights.h5")
    encoder = EfficientNetB0()
    variables = load_encoder(encoder, str(tmp_path / "w.weights.h5"), 224)
    images = np.random.default_rng(2).integers(0, 256, (2, *shape, 3), np.uint8)
    memory, seen = jax.jit(
        lambda v, x: encoder.apply(
            v, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, images)
    # Every layer with weights: Keras calls them what our modules are called. It applies the
    # activation of a squeeze-and-excite layer within it, and numbers the normalization.
    names = [
        layer.name
        for layer in model.layers
        if layer.get_weights() and layer is not normalization and "_se_" not in layer.name
    ]
    assert len(names) == 4 + 6 * 16 - 2
    taps = keras.Model(
        model.input,
        [normalization.output, *[model.get_layer(n).output for n in names], model.output],
    )
    first, *stages, last = map(np.asarray, taps(images.astype(np.float32), training=False))
    for name, theirs in zip(["normalization", *names], [first, *stages], strict=True):
        (ours,) = seen["intermediates"][name]["__call__"]
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name
    assert memory.grid == last.shape[1:3]
    assert np.abs(memory.values - last.reshape(memory.values.shape)).max() <= 1e-4 * last.max()
    assert last.std() > 1e-3


def test_features_are_as_wide_as_said():
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    memory, _ = jax.eval_shape(
        lambda x: EfficientNetB0().init_with_output(jax.random.key(0), x, train=False), images
    )
    assert memory.values.shape == (1, 49, 1280)
    assert memory.grid == (7, 7)
