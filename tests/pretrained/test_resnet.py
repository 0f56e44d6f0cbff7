"""ResNet's weights: torchvision's tensors from every kind of file; what does not fit is named."""

import hashlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from capjax.models.encoders.resnet import ResNet
from capjax.pretrained import resnet
from capjax.pretrained.encoders import load_encoder
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.resnet import from_torchvision, imagenet_file, load_resnet
from capjax.pretrained.torch_files import read_tensors
from tests.helpers.keras_networks import fake_keras

torch = pytest.importorskip("torch", reason="the files are written by torch")
from benchmarks.torch_resnet import TorchResNet, random_resnet  # noqa: E402


def shapes(depth):
    encoder = ResNet(depth)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8)
    return jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), images)


def zeros(depth):
    """Tensors of the right names and shapes that take no memory."""
    with torch.device("meta"):
        tensors = TorchResNet(depth).state_dict()
    return {name: np.broadcast_to(np.float32(0), tuple(t.shape)) for name, t in tensors.items()}


@pytest.fixture(scope="module", name="model")
def make_model():
    return random_resnet(50)


@pytest.fixture(name="folder")
def make_folder(tmp_path):
    """Files of 100 MB, which pytest would keep."""
    yield tmp_path
    for path in tmp_path.glob("w.*"):
        path.unlink()


def assert_holds(variables, model):
    """A few of each kind by hand, and all by their number and sum."""
    given = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params, statistics = variables["params"], variables["batch_stats"]
    for ours, theirs in (
        (params["conv1"]["kernel"], given["conv1.weight"].transpose(2, 3, 1, 0)),
        (params["bn1"]["scale"], given["bn1.weight"]),
        (params["layer3_5_conv2"]["kernel"], given["layer3.5.conv2.weight"].transpose(2, 3, 1, 0)),
        (params["layer1_2_conv3"]["kernel"], given["layer1.2.conv3.weight"][:, :, 0, 0].T),
        (
            params["layer2_0_downsample_conv"]["kernel"],
            given["layer2.0.downsample.0.weight"][:, :, 0, 0].T,
        ),
        (params["layer4_0_downsample_bn"]["bias"], given["layer4.0.downsample.1.bias"]),
        (statistics["layer4_2_bn3"]["mean"], given["layer4.2.bn3.running_mean"]),
        (statistics["layer4_0_downsample_bn"]["var"], given["layer4.0.downsample.1.running_var"]),
    ):
        np.testing.assert_array_equal(ours, theirs)
    kept = [a for n, a in given.items() if not n.startswith("fc.") and "num_batches" not in n]
    leaves = jax.tree.leaves(variables)
    assert {(type(leaf), leaf.dtype.name) for leaf in leaves} == {(np.ndarray, "float32")}
    assert sorted(leaf.sum() for leaf in leaves) == pytest.approx(
        sorted(array.sum() for array in kept), rel=1e-3, abs=1e-2
    )


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_files_are_read(model, folder, suffix):
    path = folder / f"w.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), path)
    else:
        tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        safetensors.numpy.save_file(tensors, path)
    assert_holds(load_encoder(ResNet(50), str(path), 224), model)


def test_loaded_weights_give_torchs_features(model, folder):
    torch.save(model.state_dict(), folder / "w.pth")
    encoder = ResNet(50)
    variables = load_resnet(encoder, str(folder / "w.pth"), 64)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    ours = jax.jit(lambda v: encoder.apply(v, images, train=False).values)(variables)
    mean, std = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    pixels = torch.from_numpy((images.astype(np.float32) / 255 - mean) / std)
    with torch.no_grad():
        theirs = model(pixels.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - theirs.reshape(ours.shape)).max() <= 1e-4 * theirs.max()


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_each_depth_has_torchvisions_tensors(depth):
    tensors, like = zeros(depth), shapes(depth)
    found = from_torchvision(tensors, like, "w")
    assert jax.tree.map(np.shape, found) == jax.tree.map(lambda leaf: leaf.shape, like)
    bare = {n: a for n, a in tensors.items() if not n.startswith("fc.") and "num_batches" not in n}
    # depth - 1 convolutions and four shortcuts, each with a norm of four arrays.
    assert len(bare) == 5 * (depth - 1 + 4)
    assert len(jax.tree.leaves(found)) == len(bare)


def test_half_precision_becomes_float32(tmp_path):
    half = {"a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "n": torch.tensor(3)}
    torch.save(half, tmp_path / "w.pth")
    found = read_tensors(tmp_path / "w.pth")
    np.testing.assert_array_equal(found["a"], np.float32([1.5, -2.0]))
    assert found["n"] == 3


def test_missing_misshapen_and_unexpected_tensors_are_named_as_in_torchvision():
    tensors, like = zeros(50), shapes(50)
    del tensors["layer1.0.downsample.1.running_mean"]
    del tensors["bn1.weight"]
    tensors["layer2.1.conv1.weight"] = np.zeros((128, 512, 3, 3), np.float32)
    tensors["layer4.2.bn2.bias"] = np.zeros(511, np.float32)
    tensors["layer5.0.conv1.weight"] = np.zeros((1, 2), np.float32)
    with pytest.raises(WeightsError) as caught:
        from_torchvision(tensors, like, "file.pth")
    assert str(caught.value) == (
        "file.pth: does not fit the model: missing bn1.weight; "
        "missing layer1.0.downsample.1.running_mean; unexpected layer5.0.conv1.weight [1, 2]; "
        "layer2.1.conv1.weight is [128, 512, 3, 3] and should be [128, 512, 1, 1]; "
        "layer4.2.bn2.bias is [511] and should be [512]"
    )


def test_another_depth_is_refused():
    with pytest.raises(WeightsError, match=r"missing layer3\.10\.bn1\.bias.*; and \d+ more"):
        from_torchvision(zeros(50), shapes(101), "w")
    with pytest.raises(WeightsError, match=r"unexpected layer3\.10\.bn1\.bias \[256\]"):
        from_torchvision(zeros(101), shapes(50), "w")


def test_what_is_no_state_dict_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_tensors(tmp_path / "none.pth")
    for name, message in (
        ("w.safetensors", "is no safetensors file"),
        ("w.pth", "is no torch file"),
        ("w.h5", r"is neither a \.safetensors file nor one of torch \(\.pth, \.pt, \.bin\)"),
    ):
        (tmp_path / name).write_bytes(b"hello, this is no weights file")
        with pytest.raises(WeightsError, match=rf"{name}: {message}"):
            read_tensors(tmp_path / name)
    torch.save({"epoch": 3, "state_dict": {"a": torch.zeros(2)}}, tmp_path / "nested.pth")
    with pytest.raises(WeightsError, match=r"is no state dict.* it holds epoch, state_dict"):
        read_tensors(tmp_path / "nested.pth")


def test_without_torch_it_says_what_would_work(monkeypatch, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match=r"torch is not installed.*as \.safetensors"):
        read_tensors(tmp_path / "w.pth")


@pytest.fixture(name="asked")
def make_asked(monkeypatch, tmp_path):
    """Keras's downloader, replaced: writes a few bytes and notes what it was asked for."""
    asked = []

    def get_file(name, origin, cache_subdir):
        asked.append(origin)
        path = os.path.join(cache_subdir, name)
        with open(path, "wb") as file:
            file.write(b"weights")
        return path

    fake_keras(monkeypatch, get_file)
    monkeypatch.setattr(resnet, "CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setitem(resnet._FILES, 50, f"resnet50-{digest[:8]}.pth")
    return asked


def test_imagenet_is_fetched_once_and_whole(asked, tmp_path):
    path = imagenet_file(50)
    assert os.listdir(tmp_path / "cache") == [os.path.basename(path)]
    with open(path, "rb") as file:
        assert file.read() == b"weights"
    assert imagenet_file(50) == path
    assert asked == [f"https://download.pytorch.org/models/{os.path.basename(path)}"]


def test_another_file_is_not_kept(asked, tmp_path):
    with pytest.raises(WeightsError, match=r"resnet101-cd907fc2\.pth was downloaded, and is anoth"):
        imagenet_file(101)
    assert os.listdir(tmp_path / "cache") == []


@pytest.mark.usefixtures("asked")
def test_without_a_network_it_says_what_would_work(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise Exception("URL fetch failure")  # As Keras raises it.

    monkeypatch.setattr(sys.modules["keras.utils"], "get_file", fail)
    with pytest.raises(
        WeightsError, match=r"URL fetch failure.*timm/resnet101\.tv2_in1k.*weights=FILE\.safetenso"
    ):
        load_resnet(ResNet(101), "imagenet", 224)
    assert os.listdir(tmp_path / "cache") == []


def test_without_torch_nothing_is_fetched(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match=r"torch is not installed.*as \.safetensors"):
        load_resnet(ResNet(152), "imagenet", 224)
    assert not asked
