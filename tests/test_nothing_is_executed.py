"""A pickle that would make a file is planted wherever files are read: it makes none."""

import ast
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import msgpack
import numpy as np
import pytest
import safetensors.numpy

import capjax
from capjax.cli.convert_tutorial import read_checkpoint
from capjax.config.errors import ConfigError
from capjax.data.caption_cache import open_encoded, open_tokenizer
from capjax.data.captions import read_captions
from capjax.data.check_images import find_bad_images
from capjax.data.datasets.coco_json import CocoJson
from capjax.data.datasets.folder import Folder
from capjax.data.datasets.karpathy import Karpathy
from capjax.data.feature_cache import FeatureShape, open_features
from capjax.data.tokenizer import Tokenizer
from capjax.files.errors import DataError
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.keras.files import read_keras_layers
from capjax.pretrained.torch_files import read_tensors
from capjax.run.workdir import WorkdirError
from capjax.train.writer import read_metrics
from tests.helpers.command_line import REPOSITORY
from tests.helpers.read_vit import read_vit
from tests.helpers.small_files import KINDS
from tests.helpers.sources import captioned
from tests.test_floors import imports, module_of


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


@pytest.fixture(name="payload")
def make_payload(tmp_path):
    marker = tmp_path / "executed"
    payload = Payload(str(marker))
    # The control: it does what it says.
    pickle.loads(pickle.dumps(payload))
    assert marker.exists()
    marker.unlink()
    yield payload
    assert not marker.exists()


PROTOCOLS = (0, 2, 5)


@pytest.mark.parametrize("name", KINDS)
def test_weight_files(tmp_path, payload, name):
    for protocol in PROTOCOLS:
        (tmp_path / name).write_bytes(pickle.dumps(payload, protocol))
        with pytest.raises(WeightsError, match=name):
            KINDS[name][1](tmp_path / name)


def object_array(payload):
    content = io.BytesIO()
    np.save(content, np.array([payload], object), allow_pickle=True)
    return content.getvalue()


def test_npz(tmp_path, payload):
    np.savez(tmp_path / "w.npz", **{"embedding/kernel": np.array([payload], object)})
    with pytest.raises(WeightsError, match="does not execute"):
        read_vit(tmp_path / "w.npz")
    for content in (object_array(payload), pickle.dumps({"embedding/kernel": payload})):
        (tmp_path / "w.npz").write_bytes(content)
        with pytest.raises(WeightsError, match="does not execute"):
            read_vit(tmp_path / "w.npz")
        with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
            archive.writestr("embedding/kernel.npy", content)
        with pytest.raises(WeightsError, match=r"w\.npz"):
            read_vit(tmp_path / "w.npz")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, payload, suffix, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / f"w{suffix}"
    state = {"a": torch.zeros(3), "b": payload}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="does not execute"):
        read_tensors(path)
    with pytest.raises(WeightsError, match="If you trust its author"):
        read_checkpoint(path, trusted=False)
    path.write_bytes(pickle.dumps(payload))
    with pytest.raises(WeightsError, match="does not execute"):
        read_tensors(path)


def test_hdf5(tmp_path, payload):
    code = pickle.dumps(payload)
    path = tmp_path / "w.h5"
    layer = {"class_name": "Lambda", "config": {"function": [code.hex(), None, None]}}
    for value in (np.void(code), np.frombuffer(code, np.uint8), code.hex()):
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps({"config": {"layers": [layer]}})
            group = file.create_group("model_weights")
            group.attrs["layer_names"] = [b"lambda"]
            layers = group.create_group("lambda")
            layers.attrs["weight_names"] = [b"w"]
            layers["w"] = value
        if isinstance(value, np.ndarray):
            found = read_keras_layers(path)["lambda"][0]
            assert found.tobytes() == code  # Numbers, and nothing more.
        else:
            with pytest.raises(WeightsError, match="holds no numbers"):
                read_keras_layers(path)


def test_msgpack_and_safetensors(tmp_path, payload):
    code = pickle.dumps(payload)
    for extension in range(1, 6):
        content = msgpack.packb({"a": msgpack.ExtType(extension, code)})
        (tmp_path / "w.msgpack").write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.msgpack"):
            KINDS["flax.msgpack"][1](tmp_path / "w.msgpack")
    array = msgpack.packb(((1,), "object", code[:8]))
    (tmp_path / "w.msgpack").write_bytes(msgpack.packb({"a": msgpack.ExtType(1, array)}))
    with pytest.raises(WeightsError, match=r"w\.msgpack: .*OBJECT array"):
        KINDS["flax.msgpack"][1](tmp_path / "w.msgpack")
    metadata = {"capjax_encoder": code.hex(), "format": "pickle"}
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "w.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        read_vit(tmp_path / "w.safetensors")


def test_files_of_a_run(tmp_path, payload, small_run):
    run = shutil.copytree(small_run, tmp_path / "run")
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.parent == run:
            whole = path.read_bytes()
            path.write_bytes(pickle.dumps(payload, 0))
            with pytest.raises((WorkdirError, ConfigError), match=path.name):
                capjax.load(run)
            path.write_bytes(whole)
    (run / "metrics.jsonl").write_bytes(pickle.dumps(payload, 0) + b"\n")
    assert read_metrics(str(run / "metrics.jsonl")) == []


def test_tokenizers(tmp_path, payload):
    path = tmp_path / "tokenizer.json"
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Python", "code": pickle.dumps(payload).hex()},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a readable"):
        Tokenizer.load(path)


def test_caches(tmp_path, payload):
    """What a dataset's cache holds is refused, or ignored and written again."""
    content = pickle.dumps(payload, 0)

    def texts_and_tokens():
        table = read_captions(captioned(), tmp_path)
        tokenizer = open_tokenizer(table, {"kind": "words"}, tmp_path)
        encoded = open_encoded(table, tokenizer, tmp_path, max_length=5, over_length="drop")
        return table.captions, tokenizer.text, encoded.tokens

    found = texts_and_tokens()
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(path.name.split("-")[0] for path in files) == ["captions", "tokenizer", "tokens"]
    for path in (*files, tmp_path / "images-f00d.json"):
        path.write_bytes(content)
    assert texts_and_tokens() == found
    assert {path: path.read_bytes() for path in files} == files
    assert found[0] == (("a dog",),) * 3
    assert len(find_bad_images(captioned(), cache_dir=tmp_path, num_threads=1)) == 3
    shape = FeatureShape(3, 4, 5, (2, 2), 0, "float16")

    def cached():
        return open_features(
            tmp_path / "features",
            {},
            shape,
            lambda batches: (np.ones((3, 4, 5)) for _ in batches),
            batch_size=3,
            name="three",
        )

    cached()
    for name in ("meta.json", "features.npy", "checksums.npy"):
        for damaged in (content, object_array(payload)):
            whole = (tmp_path / "features" / name).read_bytes()
            (tmp_path / "features" / name).write_bytes(damaged)
            with pytest.raises(DataError, match="Delete the folder and start again"):
                cached()
            (tmp_path / "features" / name).write_bytes(whole)
    # One that was not finished is made anew.
    for name in ("features.npy", "checksums.npy"):
        shutil.copytree(tmp_path / "features", tmp_path / "features.partial")
        shutil.rmtree(tmp_path / "features")
        (tmp_path / "features.partial" / name).write_bytes(object_array(payload))
        assert cached().read(np.arange(3)).sum() == 60


def test_tables_of_captions(tmp_path, payload):
    for name, read in (
        ("c.jsonl", lambda file: Folder(file).open("train")),
        ("c.csv", lambda file: Folder(file).open("train")),
        ("c.json", lambda file: Karpathy(file, str(tmp_path)).open("train")),
        ("d.json", lambda file: CocoJson(file, str(tmp_path)).open("train")),
    ):
        for protocol in PROTOCOLS:
            (tmp_path / name).write_bytes(pickle.dumps(payload, protocol))
            with pytest.raises(DataError, match=name):
                read(str(tmp_path / name))


# Whose business it is: the converter executes a file that its user says to trust.
_TRUSTING = "capjax/cli/convert_tutorial.py"
# A config or a sweep is a program that its user wrote or chose.
_OF_CONFIGS = "capjax/cli/python_file.py"
# It names a program by the digest of what it is made from, written by pickle and never read.
_DIGESTING = "capjax/parallel/programs.py"
_FORBIDDEN = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "joblib", "runpy"}


def calls(tree):
    """(name of what is called, its keyword arguments) all over a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            yield ast.unparse(node.func), keywords


@pytest.mark.parametrize("file", sorted((REPOSITORY / "capjax").rglob("*.py")), ids=module_of)
def test_no_module_reads_what_can_be_executed(file):
    tree = ast.parse(file.read_text())
    imported = {module.split(".")[0] for module, _ in imports(file)}
    allowed = {REPOSITORY / _OF_CONFIGS: {"runpy"}, REPOSITORY / _DIGESTING: {"pickle"}}
    assert not imported & _FORBIDDEN - allowed.get(file, set())
    for name, keywords in calls(tree):
        assert name not in ("eval", "exec", "compile", "__import__"), name
        assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), name
        assert name != "np.load" or keywords.get("allow_pickle") is False
        if name == "torch.load" and str(file.relative_to(REPOSITORY)) != _TRUSTING:
            assert keywords.get("weights_only") is True
