"""Keras's weights: every form of its files, ImageNet's own, and what is said of all others."""

import sys
import types

import h5py
import jax
import numpy as np
import pytest

from capjax.models.encoders.efficientnet_b0 import IMAGENET_MEAN, IMAGENET_STD, EfficientNetB0
from capjax.models.encoders.inception_v3 import InceptionV3
from capjax.models.encoders.mobilenet_v2 import MobileNetV2
from capjax.models.encoders.mobilenet_v3 import MobileNetV3
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.keras.files import read_keras_layers
from capjax.pretrained.keras.mobilenet_v2 import imagenet_file
from tests.helpers.effort import sweep
from tests.helpers.keras_networks import (
    fake_keras,
    layers_of,
    normalization_of,
    randomize,
    requests,
    write_legacy,
)
from tests.helpers.small_weights import write_small_weights

keras = pytest.importorskip("keras", reason="the files are written by Keras")
# Keras 3 on NumPy 2: its own conversion of TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ALPHA = {"alpha": 0.35}
V2, V3 = MobileNetV2(0.35), MobileNetV3("small", 0.35)
# Keras's function and its options, our encoder, and Keras's last layer before the classifier.
NETWORKS = {
    "mobilenet_v2": ("MobileNetV2", ALPHA, V2, "out_relu"),
    "mobilenet_v3": ("MobileNetV3Small", ALPHA, V3, "conv_1_bn"),
    "efficientnet_b0": ("EfficientNetB0", {}, EfficientNetB0(), "top_activation"),
    "inception_v3": ("InceptionV3", {}, InceptionV3(), "mixed10"),
}


def make_network(name, tmp_path_factory):
    """A network with its classifier and without, our encoder, and the variables of its file."""
    kind, options, encoder, last = NETWORKS[name]
    network = getattr(keras.applications, kind)
    model = network(weights=None, classes=7, input_shape=(96, 96, 3), **options)
    randomize(model)
    if kind == "EfficientNetB0":
        # As Keras's ImageNet file has them: the standard deviation in the variance's place.
        normalization_of(model).set_weights([IMAGENET_MEAN, IMAGENET_STD, np.array(0)])
    bare = keras.Model(model.input, model.get_layer(last).output)
    path = tmp_path_factory.mktemp("weights") / "w.weights.h5"
    bare.save_weights(path)
    variables = load_encoder(encoder, str(path), 96)
    path.unlink()
    leaves = jax.tree.leaves(variables)
    assert {(type(leaf), leaf.dtype.name) for leaf in leaves} == {(np.ndarray, "float32")}
    return types.SimpleNamespace(
        name=name, top=model, bare=bare, encoder=encoder, variables=variables
    )


@pytest.fixture(scope="module", name="networks")
def make_networks(tmp_path_factory):
    """By name; each made once, where a test asks for it."""
    found = {}

    def networks(name):
        if name not in found:
            found[name] = make_network(name, tmp_path_factory)
        return found[name]

    return networks


# What is special about the others' files has tests of its own.
@pytest.fixture(params=sweep(NETWORKS, ["mobilenet_v2"]), name="network")
def each_network(request, networks):
    return networks(request.param)


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """Files of up to 90 MB, which pytest would keep."""
    yield tmp_path
    for path in tmp_path.glob("*.h5"):
        path.unlink()


def assert_holds(path, network):
    found = load_encoder(network.encoder, str(path), 96)
    jax.tree.map(np.testing.assert_array_equal, found, network.variables)


def test_files_of_keras_3_are_read_without_their_classifier(network, folder):
    network.top.save_weights(folder / "top.weights.h5")
    assert_holds(folder / "top.weights.h5", network)


FORMS = [("mobilenet_v2", whole, top) for whole in (False, True) for top in (False, True)]
OTHERS = [(name, True, False) for name in NETWORKS if name != "mobilenet_v2"]


@pytest.mark.parametrize(("name", "whole", "top"), sweep([*FORMS, *OTHERS], [FORMS[3]]))
def test_legacy_files_are_read(networks, folder, name, whole, top):
    network = networks(name)
    write_legacy(network.top if top else network.bare, folder / "w.h5", whole=whole)
    assert_holds(folder / "w.h5", network)


def old_name(name):
    """What Keras 2 called a layer of MobileNetV3, as in its ImageNet files."""
    if name.startswith("expanded_conv"):
        at = next(p for p in ("expand", "depthwise", "squeeze", "project") if f"_{p}" in name[13:])
        at = name.index(f"_{at}", 13)
        name = f"{name[:at]}/{name[at + 1 :]}"
        name = name.replace("excite_conv", "excite/Conv")
    else:
        name = name.capitalize()
    return name.removesuffix("_bn") + "/BatchNorm" if name.endswith("_bn") else name


@pytest.mark.slow(reason="Keras makes one more network; files of Keras 2 are read every day")
def test_names_of_keras_2_are_known(networks, folder):
    assert old_name("expanded_conv_3_expand_bn") == "expanded_conv_3/expand/BatchNorm"
    assert old_name("expanded_conv_squeeze_excite_conv_1") == "expanded_conv/squeeze_excite/Conv_1"
    network = networks("mobilenet_v3")
    with h5py.File(folder / "w.h5", "w") as file:
        layers = [layer for layer in network.top.layers if layer.get_weights()]
        file.attrs["layer_names"] = [old_name(layer.name) for layer in layers]
        for layer in layers:
            group = file.require_group(old_name(layer.name))
            names = [f"{old_name(layer.name)}/{i}:0" for i in range(len(layer.weights))]
            group.attrs["weight_names"] = names
            for name, array in zip(names, layer.get_weights(), strict=True):
                group[name] = array
    assert_holds(folder / "w.h5", network)


def layer_names(file):
    names = file.attrs["layer_names"]
    return [name.decode() if isinstance(name, bytes) else name for name in names]


@pytest.mark.slow(reason="Keras takes long to make an Inception; other networks are read every day")
def test_names_of_inception_say_nothing(networks, folder):
    """Keras loads by order, so a file of any names is the same file."""
    network = networks("inception_v3")
    for name, layer in layers_of(network.bare).items():
        kind, last = ("params", "kernel") if "conv2d" in name else ("batch_stats", "var")
        theirs = np.asarray(layer.get_weights()[-1])
        ours = network.variables[kind][name][last]
        np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs, err_msg=name)
    write_legacy(network.bare, folder / "w.h5")
    with h5py.File(folder / "w.h5", "r+") as file:
        names = layer_names(file)
        for place, name in enumerate(names):
            file.move(name, f"x{(place * 7) % len(names)}")
        file.attrs["layer_names"] = [f"x{(i * 7) % len(names)}" for i in range(len(names))]
    assert len(names) % 7
    assert_holds(folder / "w.h5", network)


@pytest.mark.slow(reason="Keras takes long to make an Inception; other networks are read every day")
def test_a_later_inception_of_a_process_is_read(networks, folder):
    """Its layers without a name are numbered from where the last model stopped."""
    network, path = networks("inception_v3"), folder / "w.weights.h5"
    later = keras.applications.InceptionV3(weights=None, include_top=False)
    assert "conv2d" not in [layer.name for layer in later.layers]
    later.set_weights(network.bare.get_weights())
    later.save_weights(path)
    assert_holds(path, network)


@pytest.mark.slow(reason="names of one network of a process are read every day")
def test_a_later_efficientnet_of_a_process_is_read(networks, folder):
    network, path = networks("efficientnet_b0"), folder / "w.weights.h5"
    later = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    assert normalization_of(later).name != "normalization"
    later.save_weights(path)
    # Untouched, it leaves pixels as they are.
    found = load_encoder(network.encoder, str(path), 32)["batch_stats"]["normalization"]
    np.testing.assert_array_equal(found["mean"], np.zeros(3))
    np.testing.assert_array_equal(found["var"], np.ones(3))


@pytest.mark.slow(reason="a file of random weights is compared every day")
def test_imagenets_weights_give_kerass_features(monkeypatch, networks, folder):
    """Keras adds a layer that divides pixels again to what it builds with these weights alone."""
    from keras.src.applications import efficientnet as kerass

    network, path, size = networks("efficientnet_b0"), str(folder / "w.weights.h5"), (65, 40)
    network.bare.save_weights(path)
    monkeypatch.setattr(kerass.file_utils, "get_file", lambda *_, **__: path)
    model = kerass.EfficientNetB0(include_top=False, input_shape=(*size, 3))
    images = np.random.default_rng(2).integers(0, 256, (2, *size, 3), np.uint8)
    theirs = np.asarray(model(images.astype(np.float32), training=False))
    apply = jax.jit(lambda v, x: network.encoder.apply(v, x, train=False))
    memory = apply(network.variables, images)
    assert memory.grid == theirs.shape[1:3]
    assert np.abs(memory.values - theirs.reshape(memory.values.shape)).max() <= 1e-4 * theirs.max()
    assert theirs.std() > 1e-3


@pytest.mark.slow(reason="compiles four networks; published weights are read every day")
def test_a_fresh_encoder_scales_pixels_as_imagenets_weights_do(networks):
    network, images = networks("efficientnet_b0"), np.zeros((1, 32, 32, 3), np.uint8)
    found = network.variables["batch_stats"]["normalization"]
    np.testing.assert_allclose(found["mean"], IMAGENET_MEAN)
    np.testing.assert_allclose(found["var"], IMAGENET_STD**2, rtol=1e-6)

    @jax.jit
    def statistics(key):
        return network.encoder.init(key, images, train=False)["batch_stats"]["normalization"]

    fresh = statistics(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), fresh, found)


def refused(encoder, path, message):
    with pytest.raises(WeightsError, match=message):
        load_encoder(encoder, str(path), 96)


OTHERS = [
    (MobileNetV2(1.0), r"block_10_\w+/mean is \[\d+\] and should be \[\d+\].*; and \d+ more"),
    (V3, r"small\.weights\.h5: does not fit the model: missing"),
    (EfficientNetB0(), r"small\.weights\.h5: does not fit the model: missing"),
    (InceptionV3(), r"small\..*: has 52 convolutions and 52 batch norms, and .* has 94"),
]


@pytest.mark.parametrize(("encoder", "message"), sweep(OTHERS, OTHERS[:1]))
def test_another_networks_file_is_refused(tmp_path, encoder, message):
    path = tmp_path / "small.weights.h5"
    write_small_weights(path)
    refused(encoder, path, message)
    refused(encoder, f"{path}x", "no such weights file")


PARTS = [
    ("mobilenet_v2", "block_15_add", V2, "missing batch_stats/Conv_1_bn/mean"),
    ("mobilenet_v3", "conv_1_bn", MobileNetV3("small"), r"/mean is \[\d+\] and .*; .*more"),
    (
        *("mobilenet_v3", "conv_1_bn", MobileNetV3("large", 0.35)),
        "missing batch_stats/expanded_conv_11_depthwise_bn",
    ),
    ("efficientnet_b0", "block6d_add", EfficientNetB0(), "missing batch_stats/block7a_bn/mean"),
]


@pytest.mark.parametrize(("name", "last", "encoder", "message"), sweep(PARTS, PARTS[:1]))
def test_what_does_not_fit_is_named(networks, folder, name, last, encoder, message):
    model, path = networks(name).top, folder / "part.weights.h5"
    keras.Model(model.input, model.get_layer(last).output).save_weights(path)
    refused(encoder, path, message)


@pytest.mark.slow(reason="makes networks of Keras; files of other networks are refused every day")
def test_a_network_of_other_layers_is_refused(folder):
    """Keras's "minimalistic" one has neither squeeze and excite nor 5x5 kernels."""
    plain = keras.applications.MobileNetV3Small(
        weights=None, include_top=False, input_shape=(32, 32, 3), minimalistic=True, **ALPHA
    )
    plain.save_weights(folder / "w.weights.h5")
    refused(V3, folder / "w.weights.h5", "missing params/expanded_conv_10_squeeze_excite_conv/")
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="extra")])
    other.save_weights(folder / "other.weights.h5")
    refused(V2, folder / "other.weights.h5", "does not fit the model: missing")


@pytest.mark.slow(reason="a narrower network is refused every day")
def test_a_wider_network_is_refused(folder):
    model = keras.applications.EfficientNetB2(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    model.save_weights(folder / "b2.weights.h5")
    refused(EfficientNetB0(), folder / "b2.weights.h5", r"b2\..*: does not fit .*and \d+ more")


@pytest.mark.slow(reason="of other networks these are named every day")
def test_what_is_misshapen_or_left_over_is_named(networks, folder):
    model, path = networks("inception_v3").bare, folder / "w.h5"
    write_legacy(model, path)
    with h5py.File(path, "r+") as file:
        first = next(layer for layer in model.layers if layer.get_weights())
        (name,) = file[first.name].attrs["weight_names"]
        array = file[first.name][name][()]
        del file[first.name][name]
        file[first.name][name] = array[:, :, :, :31]
        file.create_group("extra").attrs["weight_names"] = ["w"]
        file["extra"]["w"] = np.zeros((2, 3))
        file.attrs["layer_names"] = [*layer_names(file), "extra"]
    wrong = r"params/conv2d/kernel is \[3, 3, 3, 31\] and should be \[3, 3, 3, 32\]$"
    refused(InceptionV3(), path, rf"unexpected params/extra/kernel \[2, 3\]; {wrong}")


def test_what_is_no_weights_file_is_refused(tmp_path):
    text = tmp_path / "text.h5"
    text.write_text("hello")
    with pytest.raises(WeightsError, match="is no HDF5 file"):
        read_keras_layers(text)
    with h5py.File(tmp_path / "else.h5", "w") as file:
        file["numbers"] = np.zeros(3)
    with pytest.raises(WeightsError, match="no Keras weights; it has numbers"):
        read_keras_layers(tmp_path / "else.h5")


def test_images_too_small_are_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="75x75 or more"):
        load_encoder(InceptionV3(), "none.h5", 64)


V3_CASES = [(size, alpha) for size in ("small", "large") for alpha in (0.75, 1.0)]


PUBLISHED = [
    ("inception_v3", InceptionV3(), "InceptionV3", {}),
    ("efficientnet", EfficientNetB0(), "EfficientNetB0", {}),
    ("mobilenet_v2", MobileNetV2(1.4), "MobileNetV2", {"alpha": 1.4}),
    *[
        ("mobilenet_v3", MobileNetV3(s, a), f"MobileNetV3{s.capitalize()}", {"alpha": a})
        for s, a in V3_CASES
    ],
]


@pytest.mark.parametrize(("module", "encoder", "kind", "options"), sweep(PUBLISHED, []))
def test_imagenet_is_kerass_own_file(monkeypatch, module, encoder, kind, options):
    """Name, place and checksum as keras.applications has them."""
    kerass = pytest.importorskip(f"keras.src.applications.{module}")
    options = {"include_top": False, "input_shape": (224, 224, 3), **options}
    ours, theirs = requests(
        monkeypatch,
        lambda: refused_at_224(encoder),
        kerass,
        lambda: getattr(kerass, kind)(**options),
    )
    assert ours == theirs


def refused_at_224(encoder):
    """Loads ImageNet's weights, whose file is not there."""
    with pytest.raises(WeightsError, match=r"/models/.*: no such weights file"):
        load_encoder(encoder, "imagenet", 224)


@pytest.mark.parametrize(
    ("alpha", "side", "file"),
    [(1.0, 224, "1.0_224"), (0.35, 100, "0.35_96"), (1.4, 500, "1.4_224"), (0.5, 64, "0.5_96")],
)
def test_the_file_of_a_width_and_the_nearest_size(monkeypatch, alpha, side, file):
    """Names as keras.applications.mobilenet_v2 forms them."""
    fake_keras(monkeypatch, lambda name, _, cache_subdir: f"/{cache_subdir}/{name}")
    name = f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{file}_no_top.h5"
    assert imagenet_file(MobileNetV2(alpha), side) == f"/models/{name}"


def test_what_is_downloaded_is_loaded(monkeypatch, tmp_path):
    write_small_weights(tmp_path / "small.weights.h5")
    fake_keras(monkeypatch, lambda *_, **__: str(tmp_path / "small.weights.h5"))
    found = load_encoder(V2, "imagenet", 96)
    assert found["params"]["Conv1"]["kernel"].shape == (3, 3, 3, 16)


DOWNLOADED = [MobileNetV2(), MobileNetV3("large"), EfficientNetB0(), InceptionV3()]


@pytest.mark.parametrize("encoder", sweep(DOWNLOADED, DOWNLOADED[:1]))
def test_without_a_network_or_keras_it_says_what_would_work(monkeypatch, encoder):
    def fail(*_, **__):
        raise Exception("URL fetch failure")  # As Keras raises it.

    fake_keras(monkeypatch, fail)
    refused(encoder, "imagenet", r"URL fetch failure.*keras/models.*encoder\.weights=FILE")
    monkeypatch.setitem(sys.modules, "keras.utils", None)
    refused(encoder, "imagenet", r"not installed.*pip install keras")


def test_there_are_no_imagenet_weights_of_other_widths():
    refused(MobileNetV2(0.9), "imagenet", r"for alpha \(0\.35, .*\), not 0\.9")
    refused(V3, "imagenet", r"for alpha \[0\.75, 1\.0\], not 0\.35")
