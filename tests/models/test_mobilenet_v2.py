"""MobileNetV2 equals Keras's, layer by layer, and both forms of a depthwise convolution agree."""

from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.data.images import load_pixels
from capjax.models.depthwise import grouped, shifted
from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.pretrained.keras.files import read_keras_layers, to_variables
from capjax.pretrained.weights import WeightsError
from tests.helpers.effort import sweep

keras = pytest.importorskip("keras", reason="the reference implementation is Keras's")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


SIZES = [(r, c, s, k) for s in (1, 2) for k in (3, 5) for r, c in ((1, 4), (5, 2), (6, 7))]


@pytest.mark.parametrize(("rows", "columns", "stride", "side"), SIZES)
def test_shifted_sums_are_the_grouped_convolution(rows, columns, stride, side):
    rng, channels = np.random.default_rng(0), 3
    x = jnp.asarray(rng.normal(size=(2, rows, columns, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(side, side, 1, channels)), jnp.float32)
    np.testing.assert_allclose(
        shifted(x, kernel, stride), grouped(x, kernel, stride), rtol=1e-4, atol=1e-5
    )


def random_keras(alpha, size, seed):
    """A Keras model whose weights and batch statistics are all random, of natural size."""
    model = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(*size, 3), alpha=alpha
    )
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        weights = layer.get_weights()
        if len(weights) == 4:
            shape = weights[0].shape
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, shape),
                    rng.normal(0, 0.3, shape),
                    rng.normal(0, 0.3, shape),
                    rng.uniform(0.5, 1.5, shape),
                ]
            )
    return model


def variables_of(encoder, path):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    like = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), images)
    return to_variables(read_keras_layers(path), like, str(path))


@pytest.fixture(scope="module", name="pair")
def make_pair(tmp_path_factory):
    model = random_keras(0.35, (96, 96), seed=0)
    path = tmp_path_factory.mktemp("weights") / "small.weights.h5"
    model.save_weights(path)
    return model, path


SCALES = [(0.35, (96, 96)), (1.0, (97, 130)), (1.4, (64, 33)), (0.35, (64, 33))]


@pytest.mark.parametrize(("alpha", "size"), sweep(SCALES, SCALES[3:]))
def test_every_stage_equals_keras(alpha, size, tmp_path):
    model = random_keras(alpha, size, seed=1)
    model.save_weights(tmp_path / "w.weights.h5")
    encoder = MobileNetV2(alpha)
    variables = variables_of(encoder, tmp_path / "w.weights.h5")
    images = np.random.default_rng(2).integers(0, 256, (2, *size, 3), np.uint8)
    memory, seen = jax.jit(
        lambda v, x: encoder.apply(
            v, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, images)
    # Every layer with weights: Keras calls them what our modules are called.
    names = [layer.name for layer in model.layers if layer.get_weights()]
    assert len(names) == 104
    taps = keras.Model(model.input, [model.get_layer(n).output for n in names] + [model.output])
    *stages, last = taps(images.astype(np.float32) / 127.5 - 1, training=False)
    for name, theirs in zip(names, map(np.asarray, stages), strict=True):
        (ours,) = seen["intermediates"][name]["__call__"]
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name
    last = np.asarray(last)
    assert memory.grid == last.shape[1:3]
    assert np.abs(memory.values - last.reshape(memory.values.shape)).max() <= 1e-4 * last.max()
    assert last.std() > 1e-3


def test_real_weights_give_kerass_features_of_photographs():
    shared = Path(__file__).parents[3] / "shared"
    weights = shared / "weights" / "mobilenet_v2_1.0_224_imagenet_notop.weights.h5"
    photographs = sorted((shared / "flickr8k" / "Images").glob("*.jpg"))[:4]
    if not weights.is_file() or not photographs:
        pytest.skip("needs ImageNet weights and photographs, which are not part of the project")
    pixels = np.stack([load_pixels(path, 224) for path in photographs])
    encoder = MobileNetV2()
    variables = variables_of(encoder, weights)
    ours = jax.jit(lambda x: encoder.apply(variables, x, train=False).values)(pixels)
    model = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(224, 224, 3)
    )
    model.load_weights(weights)
    theirs = np.asarray(model(pixels.astype(np.float32) / 127.5 - 1, training=False))
    assert np.abs(ours - theirs.reshape(ours.shape)).max() <= 1e-4 * theirs.max()
    assert theirs.max() > 1


def test_batch_statistics_count(pair):
    encoder = MobileNetV2(0.35)
    variables = variables_of(encoder, pair[1])
    images = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), np.uint8)
    apply = jax.jit(lambda v: encoder.apply(v, images, train=False).values)
    fresh = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    assert np.abs(apply(variables) - apply({**variables, "batch_stats": fresh})).max() > 0.01


def test_legacy_files_hold_the_same(pair, tmp_path):
    from keras.src.legacy.saving import legacy_h5_format

    model, path = pair
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    with h5py.File(tmp_path / "model.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file.create_group("model_weights"), model)
    encoder = MobileNetV2(0.35)
    expected = variables_of(encoder, path)
    for name in ("weights.h5", "model.h5"):
        found = variables_of(encoder, tmp_path / name)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_classifier_on_top_is_left_out(pair, tmp_path):
    model = keras.applications.MobileNetV2(
        weights=None, include_top=True, classes=7, input_shape=(96, 96, 3), alpha=0.35
    )
    model.save_weights(tmp_path / "top.weights.h5")
    variables_of(MobileNetV2(0.35), tmp_path / "top.weights.h5")


def test_what_does_not_fit_is_named(pair, tmp_path):
    model, path = pair
    with pytest.raises(
        WeightsError, match=r"block_10_\w+/mean is \[\d+\] and should be \[\d+\].*; and \d+ more"
    ):
        variables_of(MobileNetV2(1.0), path)
    smaller = keras.Model(model.input, model.get_layer("block_15_add").output)
    smaller.save_weights(tmp_path / "part.weights.h5")
    with pytest.raises(WeightsError, match="missing batch_stats/Conv_1_bn/mean"):
        variables_of(MobileNetV2(0.35), tmp_path / "part.weights.h5")
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="extra")])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(WeightsError, match="does not fit the model: missing"):
        variables_of(MobileNetV2(0.35), tmp_path / "other.weights.h5")


def test_what_is_no_weights_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_keras_layers(tmp_path / "none.h5")
    text = tmp_path / "text.h5"
    text.write_text("hello")
    with pytest.raises(WeightsError, match="is no HDF5 file"):
        read_keras_layers(text)
    with h5py.File(tmp_path / "else.h5", "w") as file:
        file["numbers"] = np.zeros(3)
    with pytest.raises(WeightsError, match="no Keras weights; it has numbers"):
        read_keras_layers(tmp_path / "else.h5")


@pytest.mark.slow(reason="a second stage over it is trained with the slow tests")
def test_gradients_flow_to_weights_and_not_to_statistics(pair):
    encoder = MobileNetV2(0.35)
    variables = variables_of(encoder, pair[1])
    images = np.random.default_rng(2).integers(0, 256, (1, 32, 32, 3), np.uint8)

    @jax.jit
    def gradient(params):
        def total(params):
            changed = {**variables, "params": params}
            return encoder.apply(changed, images, train=True).values.sum()

        return jax.grad(total)(params)

    found = gradient(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.abs(found["expanded_conv_depthwise"]["kernel"]).max() > 0
