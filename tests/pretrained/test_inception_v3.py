"""InceptionV3's weights: every form of Keras's files, by order; what does not fit is named."""

import sys

import h5py
import jax
import numpy as np
import pytest

from capjax.models.encoders.inception_v3 import InceptionV3
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.keras.inception_v3 import imagenet_file, load_inception_v3
from capjax.pretrained.weights import WeightsError
from tests.helpers.keras_downloads import fake_keras, requests
from tests.helpers.keras_inception import layers_by_creation, random_inception
from tests.helpers.small_weights import write_small_weights

keras = pytest.importorskip("keras", reason="the files are written by Keras")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", name="model")
def make_model():
    return random_inception(keras)


@pytest.fixture(name="path")
def make_path(tmp_path):
    """Files of 90 MB, which pytest would keep."""
    yield tmp_path / "w.weights.h5"
    for path in tmp_path.glob("*.h5"):
        path.unlink()


def write_legacy(model, group):
    from keras.src.legacy.saving import legacy_h5_format

    legacy_h5_format.save_weights_to_hdf5_group(group, model)


def assert_holds(variables, model):
    """Each array is the one of the layer that was created at its number."""
    layers = layers_by_creation(model)
    assert variables["params"].keys() == layers.keys()
    for name, layer in layers.items():
        weights = [np.asarray(array) for array in layer.get_weights()]
        found = variables["params"][name]
        if name.startswith("conv2d"):
            np.testing.assert_array_equal(found["kernel"].reshape(weights[0].shape), weights[0])
        else:
            statistics = variables["batch_stats"][name]
            for array, expected in zip(
                (found["bias"], statistics["mean"], statistics["var"]), weights, strict=True
            ):
                np.testing.assert_array_equal(array, expected)


def test_files_of_keras_3_are_read(model, path):
    model.save_weights(path)
    assert_holds(load_encoder(InceptionV3(), str(path), 299), model)


def test_legacy_files_are_read(model, path):
    with h5py.File(path, "w") as file:
        write_legacy(model, file)
    assert_holds(load_inception_v3(InceptionV3(), str(path), 299), model)


def test_whole_models_are_read_and_their_classifier_left_out(model, path):
    top = keras.layers.Dense(7, name="predictions")(
        keras.layers.GlobalAveragePooling2D()(model.output)
    )
    with h5py.File(path, "w") as file:
        write_legacy(keras.Model(model.input, top), file.create_group("model_weights"))
    assert_holds(load_inception_v3(InceptionV3(), str(path), 299), model)


def test_names_say_nothing(model, path):
    """Keras loads by order, so a file of any names is the same file."""
    with h5py.File(path, "w") as file:
        write_legacy(model, file)
        names = [name.decode() if isinstance(name, bytes) else name for name in model_names(file)]
        for place, name in enumerate(names):
            file.move(name, f"x{(place * 7) % len(names)}")
        file.attrs["layer_names"] = [f"x{(i * 7) % len(names)}" for i in range(len(names))]
    assert len(names) % 7
    assert_holds(load_inception_v3(InceptionV3(), str(path), 299), model)


def model_names(file):
    return list(file.attrs["layer_names"])


@pytest.mark.usefixtures("model")
def test_a_later_model_of_a_process_is_read(path):
    """Its layers are numbered from where the last model stopped."""
    later = random_inception(keras, seed=1)
    later.save_weights(path)
    numbers = [layer.name for layer in later.layers if layer.name.startswith("conv2d")]
    assert "conv2d" not in numbers
    assert_holds(load_inception_v3(InceptionV3(), str(path), 75), later)


def test_another_networks_file_is_refused(path):
    write_small_weights(path)
    with pytest.raises(
        WeightsError, match=r"w\.weights\.h5: has 52 convolutions and 52 batch norms, .* has 94"
    ):
        load_inception_v3(InceptionV3(), str(path), 299)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_inception_v3(InceptionV3(), str(path) + "x", 299)


def test_what_is_misshapen_or_left_over_is_named(model, path):
    with h5py.File(path, "w") as file:
        write_legacy(model, file)
        first = next(layer for layer in model.layers if layer.get_weights())
        (name,) = file[first.name].attrs["weight_names"]
        array = file[first.name][name][()]
        del file[first.name][name]
        file[first.name][name] = array[:, :, :, :31]
        file.create_group("extra").attrs["weight_names"] = ["w"]
        file["extra"]["w"] = np.zeros((2, 3))
        file.attrs["layer_names"] = [*model_names(file), "extra"]
    with pytest.raises(
        WeightsError,
        match=r"unexpected params/extra/kernel \[2, 3\]; "
        r"params/conv2d/kernel is \[3, 3, 3, 31\] and should be \[3, 3, 3, 32\]$",
    ):
        load_inception_v3(InceptionV3(), str(path), 299)


def test_imagenet_is_kerass_own_file(monkeypatch):
    """Name, place and checksum as keras.applications.inception_v3 has them."""
    from keras.src.applications import inception_v3 as kerass

    found, asked = requests(
        monkeypatch, imagenet_file, kerass, lambda: kerass.InceptionV3(include_top=False)
    )
    assert found.startswith("/models/inception_v3_weights")
    assert asked[0] == asked[1]


def test_without_a_network_it_says_what_would_work(monkeypatch):
    def fail(*_, **__):
        raise Exception("URL fetch failure")  # As Keras raises it.

    fake_keras(monkeypatch, fail)
    with pytest.raises(
        WeightsError, match=r"URL fetch failure.*keras/models.*encoder\.weights=FILE"
    ):
        load_inception_v3(InceptionV3(), "imagenet", 299)


def test_without_keras_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras.utils", None)
    with pytest.raises(WeightsError, match=r"not installed.*pip install keras"):
        load_inception_v3(InceptionV3(), "imagenet", 299)


def test_images_too_small_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="75x75 or more"):
        load_inception_v3(InceptionV3(), "none.h5", 64)


def test_variables_are_numpy(model, path):
    model.save_weights(path)
    found = load_inception_v3(InceptionV3(), str(path), 299)
    assert {(type(x), x.dtype.name) for x in jax.tree.leaves(found)} == {(np.ndarray, "float32")}
