"""MobileNetV3's weights: every form of Keras's files, names of Keras 2; what does not fit."""

import h5py
import jax
import numpy as np
import pytest

from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.keras.mobilenet_v3 import imagenet_file, load_mobilenet_v3
from capjax.pretrained.weights import WeightsError
from tests.helpers.keras_downloads import fake_keras, requests
from tests.helpers.keras_random import randomize, write_legacy
from tests.helpers.small_weights import write_small_weights

keras = pytest.importorskip("keras", reason="the files are written by Keras")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ALPHA = 0.35
ENCODER = MobileNetV3("small", ALPHA)


@pytest.fixture(scope="module", name="model")
def make_model():
    """With its classifier, so that its files hold the most."""
    model = keras.applications.MobileNetV3Small(
        weights=None, include_top=True, classes=7, input_shape=(96, 96, 3), alpha=ALPHA
    )
    randomize(model)
    return model


def without_classifier(model):
    return keras.Model(model.input, model.get_layer("conv_1_bn").output)


@pytest.fixture(scope="module", name="expected")
def make_expected(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.weights.h5"
    without_classifier(model).save_weights(path)
    return load_encoder(ENCODER, str(path), 96)


def assert_same(found, expected):
    assert {(type(x), x.dtype.name) for x in jax.tree.leaves(found)} == {(np.ndarray, "float32")}
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_files_of_keras_3_are_read_without_their_classifier(model, expected, tmp_path):
    model.save_weights(tmp_path / "top.weights.h5")
    assert_same(load_encoder(ENCODER, str(tmp_path / "top.weights.h5"), 96), expected)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("top", [False, True])
def test_legacy_files_are_read(model, expected, tmp_path, whole, top):
    write_legacy(model if top else without_classifier(model), tmp_path / "w.h5", whole=whole)
    assert_same(load_mobilenet_v3(ENCODER, str(tmp_path / "w.h5"), 96), expected)


def old_name(name):
    """What Keras 2 called a layer, as in its ImageNet files."""
    if name.startswith("expanded_conv"):
        at = next(p for p in ("expand", "depthwise", "squeeze", "project") if f"_{p}" in name[13:])
        at = name.index(f"_{at}", 13)
        name = f"{name[:at]}/{name[at + 1 :]}"
        name = name.replace("excite_conv", "excite/Conv")
    else:
        name = name.capitalize()
    return name.removesuffix("_bn") + "/BatchNorm" if name.endswith("_bn") else name


def test_names_of_keras_2_are_known(model, expected, tmp_path):
    assert old_name("expanded_conv_3_expand_bn") == "expanded_conv_3/expand/BatchNorm"
    assert old_name("expanded_conv_squeeze_excite_conv_1") == (
        "expanded_conv/squeeze_excite/Conv_1"
    )
    with h5py.File(tmp_path / "w.h5", "w") as file:
        layers = [layer for layer in model.layers if layer.get_weights()]
        file.attrs["layer_names"] = [old_name(layer.name) for layer in layers]
        for layer in layers:
            group = file.require_group(old_name(layer.name))
            names = [f"{old_name(layer.name)}/{i}:0" for i in range(len(layer.weights))]
            group.attrs["weight_names"] = names
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array
    assert_same(load_mobilenet_v3(ENCODER, str(tmp_path / "w.h5"), 96), expected)


def test_what_does_not_fit_is_named(model, tmp_path):
    path = str(tmp_path / "w.weights.h5")
    write_small_weights(path)
    with pytest.raises(WeightsError, match=r"w\.weights\.h5: does not fit the model: missing"):
        load_mobilenet_v3(ENCODER, path, 96)
    without_classifier(model).save_weights(path)
    with pytest.raises(WeightsError, match=r"/mean is \[\d+\] and should be \[\d+\]; .*more"):
        load_mobilenet_v3(MobileNetV3("small"), path, 96)
    with pytest.raises(WeightsError, match="missing batch_stats/expanded_conv_11_depthwise_bn"):
        load_mobilenet_v3(MobileNetV3("large", ALPHA), path, 96)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_mobilenet_v3(ENCODER, path + "x", 96)


def test_the_plain_form_is_another_network(tmp_path):
    """Keras's "minimalistic" one has neither squeeze and excite nor 5x5 kernels."""
    model = keras.applications.MobileNetV3Small(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=ALPHA, minimalistic=True
    )
    model.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(WeightsError, match="missing params/expanded_conv_10_squeeze_excite_conv/"):
        load_mobilenet_v3(ENCODER, str(tmp_path / "w.weights.h5"), 96)


@pytest.mark.parametrize(
    ("size", "alpha"), [("small", 0.75), ("small", 1.0), ("large", 0.75), ("large", 1)]
)
def test_imagenet_is_kerass_own_file(monkeypatch, size, alpha):
    """Name, place and checksum as keras.applications.mobilenet_v3 has them."""
    from keras.src.applications import mobilenet_v3 as kerass

    fields = {"input_shape": (224, 224, 3), "include_top": False, "alpha": float(alpha)}
    make = getattr(kerass, f"MobileNetV3{size.capitalize()}")
    found, asked = requests(
        monkeypatch, lambda: imagenet_file(MobileNetV3(size, alpha)), kerass, lambda: make(**fields)
    )
    assert found.startswith(f"/models/weights_mobilenet_v3_{size}")
    assert asked[0] == asked[1]


def test_there_are_no_weights_of_other_widths():
    with pytest.raises(WeightsError, match=r"for alpha \[0\.75, 1\.0\], not 0\.35"):
        load_mobilenet_v3(ENCODER, "imagenet", 224)


def test_without_a_network_it_says_what_would_work(monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure")  # As Keras raises it.

    fake_keras(monkeypatch, fail)
    with pytest.raises(WeightsError, match=r"URL fetch failure.*encoder\.weights=FILE"):
        load_mobilenet_v3(MobileNetV3("large"), "imagenet", 224)
