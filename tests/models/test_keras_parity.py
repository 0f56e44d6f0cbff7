"""Encoders equal Keras's networks, layer by layer, from Keras's own files."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.data.images import load_pixels
from capjax.models.encoders.efficientnet_b0 import EfficientNetB0
from capjax.models.encoders.inception_v3 import InceptionV3
from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.pretrained.encoders import load_encoder
from tests.helpers.effort import sweep
from tests.helpers.keras_networks import layers_of, normalization_of, randomize

keras = pytest.importorskip("keras", reason="the reference implementation is Keras's")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Keras's function and the width it takes, our encoder, the images' size and how many layers have
# weights.
CASES = [
    ("MobileNetV2", 0.35, MobileNetV2(0.35), (64, 33), 104),
    ("MobileNetV2", 1.4, MobileNetV2(1.4), (97, 130), 104),
    ("MobileNetV3Small", 1.3, MobileNetV3("small", 1.3), (64, 64), 86),
    ("MobileNetV3Large", 0.75, MobileNetV3("large", 0.75), (65, 98), 108),
    ("EfficientNetB0", None, EfficientNetB0(), (65, 98), 99),
    ("InceptionV3", None, InceptionV3(), (96, 75), 188),
]


def build(kind, alpha, size, seed=0):
    """A Keras network whose weights are all random."""
    options = {"alpha": alpha} if alpha else {}
    network = getattr(keras.applications, kind)
    model = network(weights=None, include_top=False, input_shape=(*size, 3), **options)
    randomize(model, seed)
    if kind == "EfficientNetB0":
        # Of a dataset of one's own, as `adapt` counts them.
        rng = np.random.default_rng(seed)
        normalization = normalization_of(model)
        statistics = [rng.uniform(0.2, 0.8, 3), rng.uniform(0.02, 0.2, 3), np.array(7)]
        normalization.set_weights(statistics)
        normalization.finalize_state()
    return model


def as_given(kind, images):
    """Pixels as a network of Keras takes them."""
    scaled = kind in ("MobileNetV2", "InceptionV3")
    return images.astype(np.float32) / 127.5 - 1 if scaled else images.astype(np.float32)


@pytest.mark.parametrize(("kind", "alpha", "encoder", "size", "count"), sweep(CASES, CASES[:1]))
def test_every_layer_equals_keras(kind, alpha, encoder, size, count, tmp_path):
    model = build(kind, alpha, size, seed=1)
    path = tmp_path / "w.weights.h5"
    model.save_weights(path)
    variables = load_encoder(encoder, str(path), 224)
    path.unlink()
    images = np.random.default_rng(2).integers(0, 256, (2, *size, 3), np.uint8)
    memory, seen = jax.jit(
        lambda v, x: encoder.apply(
            v, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, images)
    layers = layers_of(model)
    assert len(layers) == count
    taps = keras.Model(model.input, [x.output for x in layers.values()] + [model.output])
    *stages, last = map(np.asarray, taps(as_given(kind, images), training=False))
    for name, theirs in zip(layers, stages, strict=True):
        if kind == "InceptionV3":  # A norm is a part of the convolution before it.
            if name.startswith("conv2d"):
                continue
            name = name.replace("batch_normalization", "conv2d")
        (ours,) = seen["intermediates"][name]["__call__"]
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name
        assert 1e-3 < theirs.std() < 1e3, name
    assert memory.grid == last.shape[1:3]
    assert np.abs(memory.values - last.reshape(memory.values.shape)).max() <= 1e-4 * last.max()


def test_real_weights_give_kerass_features_of_photographs():
    shared = Path(__file__).parents[3] / "shared"
    weights = shared / "weights" / "mobilenet_v2_1.0_224_imagenet_notop.weights.h5"
    photographs = sorted((shared / "flickr8k" / "Images").glob("*.jpg"))[:4]
    if not weights.is_file() or not photographs:
        pytest.skip("needs ImageNet weights and photographs, which are not part of the project")
    pixels = np.stack([load_pixels(path, 224) for path in photographs])
    variables = load_encoder(MobileNetV2(), str(weights), 224)
    ours = jax.jit(lambda x: MobileNetV2().apply(variables, x, train=False).values)(pixels)
    model = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(224, 224, 3)
    )
    model.load_weights(weights)
    theirs = np.asarray(model(as_given("MobileNetV2", pixels), training=False))
    assert np.abs(ours - theirs.reshape(ours.shape)).max() <= 1e-4 * theirs.max()
    assert theirs.max() > 1


NARROW = {
    "MobileNetV2": MobileNetV2,
    "MobileNetV3Small": functools.partial(MobileNetV3, "small"),
}


@pytest.fixture(scope="module", name="narrow", params=sweep(NARROW, ["MobileNetV3Small"]))
def make_narrow(request, tmp_path_factory):
    """Of a network of a third of the width: our encoder, variables, images, Keras's features."""
    model = build(request.param, 0.35, (33, 70))
    path = tmp_path_factory.mktemp("weights") / "w.weights.h5"
    model.save_weights(path)
    images = np.random.default_rng(2).integers(0, 256, (1, 33, 70, 3), np.uint8)
    theirs = np.asarray(model(as_given(request.param, images), training=False))
    encoder = NARROW[request.param]
    variables = load_encoder(encoder(0.35), str(path), 64)
    return encoder, variables, images, theirs.reshape(1, -1, theirs.shape[-1])


@pytest.mark.slow(reason="compiles a backward pass; every layer is compared every day")
@pytest.mark.parametrize("narrow", ["MobileNetV3Small"], indirect=True)
def test_gradients_reach_the_first_layers(narrow):
    encoder, variables, images, _ = narrow
    first = [name for name in variables["params"] if name in ("conv", "expanded_conv_depthwise")]

    @jax.jit
    def gradient(parts):
        def total(parts):
            params = {**variables["params"], **parts}
            changed = {**variables, "params": params}
            return encoder(0.35).apply(changed, images, train=True).values.sum()

        return jax.grad(total)(parts)

    found = gradient({name: variables["params"][name] for name in first})
    assert found
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


@pytest.mark.slow(reason="a sweep: whole precision is compared every day")
def test_half_precision_is_close(narrow):
    encoder, variables, images, theirs = narrow
    half = encoder(0.35, dtype=jnp.bfloat16)
    found = jax.jit(lambda v: half.apply(v, images, train=False).values)(variables)
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(np.float32) - theirs).max() < 0.1 * np.abs(theirs).max()
