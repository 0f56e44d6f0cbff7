"""EfficientNet-B0's weights: every form of Keras's files, and how pixels are scaled for each."""

import jax
import numpy as np
import pytest

from capjax.models.encoders.efficientnet_b0 import IMAGENET_MEAN, IMAGENET_STD, EfficientNetB0
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.keras.efficientnet import imagenet_file, load_efficientnet_b0
from capjax.pretrained.weights import WeightsError
from tests.helpers.keras_downloads import fake_keras, requests
from tests.helpers.keras_random import randomize, write_legacy
from tests.helpers.small_weights import write_small_weights

keras = pytest.importorskip("keras", reason="the files are written by Keras")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ENCODER = EfficientNetB0()
SIZE = (65, 40)


def normalization_of(model):
    return next(layer for layer in model.layers if layer.name.startswith("normalization"))


@pytest.fixture(scope="module", name="model")
def make_model():
    """With its classifier, and the statistics that Keras's ImageNet file has."""
    model = keras.applications.EfficientNetB0(
        weights=None, classes=7, input_shape=(64, 64, 3), include_top=True
    )
    randomize(model)
    # The standard deviation in the variance's place, as there.
    normalization_of(model).set_weights([IMAGENET_MEAN, IMAGENET_STD, np.array(0)])
    return model


@pytest.fixture(scope="module", name="bare")
def make_bare(model):
    return keras.Model(model.input, model.get_layer("top_activation").output)


@pytest.fixture(scope="module", name="path")
def make_path(bare, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.weights.h5"
    bare.save_weights(path)
    yield path
    path.unlink()


@pytest.fixture(scope="module", name="expected")
def make_expected(path):
    return load_encoder(ENCODER, str(path), 224)


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """Files of 16 MB, which pytest would keep."""
    yield tmp_path
    for path in tmp_path.glob("*.h5"):
        path.unlink()


def assert_same(found, expected):
    assert {(type(x), x.dtype.name) for x in jax.tree.leaves(found)} == {(np.ndarray, "float32")}
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow(reason="a file of random weights is compared every day")
def test_imagenets_weights_give_kerass_features(monkeypatch, path, expected):
    """Keras adds a layer that divides pixels again to what it builds with these weights alone."""
    from keras.src.applications import efficientnet as kerass

    monkeypatch.setattr(kerass.file_utils, "get_file", lambda *_, **__: str(path))
    model = kerass.EfficientNetB0(include_top=False, input_shape=(*SIZE, 3))
    images = np.random.default_rng(2).integers(0, 256, (2, *SIZE, 3), np.uint8)
    theirs = np.asarray(model(images.astype(np.float32), training=False))
    memory = jax.jit(lambda v, x: ENCODER.apply(v, x, train=False))(expected, images)
    assert memory.grid == theirs.shape[1:3]
    assert np.abs(memory.values - theirs.reshape(memory.values.shape)).max() <= 1e-4 * theirs.max()
    assert theirs.std() > 1e-3
    found = expected["batch_stats"]["normalization"]
    np.testing.assert_allclose(found["mean"], IMAGENET_MEAN)
    np.testing.assert_allclose(found["var"], IMAGENET_STD**2, rtol=1e-6)


def test_a_fresh_encoder_scales_pixels_as_imagenets_weights_do(expected):
    images = np.zeros((1, 32, 32, 3), np.uint8)

    @jax.jit
    def statistics(key):
        return ENCODER.init(key, images, train=False)["batch_stats"]["normalization"]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        statistics(jax.random.key(0)),
        expected["batch_stats"]["normalization"],
    )


def test_files_of_keras_3_are_read_without_their_classifier(model, expected, folder):
    model.save_weights(folder / "top.weights.h5")
    assert_same(load_encoder(ENCODER, str(folder / "top.weights.h5"), 224), expected)


@pytest.mark.parametrize("whole", [False, True])
def test_legacy_files_are_read(model, bare, expected, folder, whole):
    write_legacy(model if whole else bare, folder / "w.h5", whole=whole)
    assert_same(load_efficientnet_b0(ENCODER, str(folder / "w.h5"), 224), expected)


@pytest.mark.usefixtures("model")
def test_a_later_model_of_a_process_is_read(folder):
    """Its layer without a name is numbered; untouched, it leaves pixels as they are."""
    later = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    assert normalization_of(later).name != "normalization"
    later.save_weights(folder / "w.weights.h5")
    found = load_efficientnet_b0(ENCODER, str(folder / "w.weights.h5"), 32)
    statistics = found["batch_stats"]["normalization"]
    np.testing.assert_array_equal(statistics["mean"], np.zeros(3))
    np.testing.assert_array_equal(statistics["var"], np.ones(3))


def test_what_does_not_fit_is_named(model, folder):
    path = str(folder / "w.weights.h5")
    write_small_weights(path)
    with pytest.raises(WeightsError, match=r"w\.weights\.h5: does not fit the model: missing"):
        load_efficientnet_b0(ENCODER, path, 224)
    part = keras.Model(model.input, model.get_layer("block6d_add").output)
    part.save_weights(path)
    with pytest.raises(WeightsError, match="missing batch_stats/block7a_bn/mean"):
        load_efficientnet_b0(ENCODER, path, 224)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_efficientnet_b0(ENCODER, path + "x", 224)


def test_a_wider_network_is_refused(folder):
    model = keras.applications.EfficientNetB2(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    model.save_weights(folder / "b2.weights.h5")
    with pytest.raises(WeightsError, match=r"b2\.weights\.h5: does not fit the model: .*and \d+"):
        load_efficientnet_b0(ENCODER, str(folder / "b2.weights.h5"), 224)


def test_imagenet_is_kerass_own_file(monkeypatch):
    """Name, place and checksum as keras.applications.efficientnet has them."""
    from keras.src.applications import efficientnet as kerass

    found, asked = requests(
        monkeypatch, imagenet_file, kerass, lambda: kerass.EfficientNetB0(include_top=False)
    )
    assert found == "/models/efficientnetb0_notop.h5"
    assert asked[0] == asked[1]


def test_without_a_network_it_says_what_would_work(monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure")  # As Keras raises it.

    fake_keras(monkeypatch, fail)
    with pytest.raises(WeightsError, match=r"URL fetch failure.*encoder\.weights=FILE"):
        load_efficientnet_b0(ENCODER, "imagenet", 224)
