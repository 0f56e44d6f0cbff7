"""Damaged files of weights, and files made to fill the memory: errors that name the file."""

import gzip
import json
import os
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from capjax.pretrained.checkpoint_folders import read_weights
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.keras.files import read_keras_layers, to_variables
from capjax.pretrained.torch_files import read_shapes, read_tensors
from capjax.pretrained.variables import load_variables
from capjax.pretrained.vit.read import vit_fields, vit_resize
from tests.helpers.damage import OTHER, cut, flipped, of_other_kinds, replaced
from tests.helpers.read_vit import read_vit
from tests.helpers.small_files import KINDS, load_small_vit, numbers, read_vectors, write_folder


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, (write, _) in KINDS.items():
        write(folder / name)
    write_folder(folder / "vit")
    return folder


def reads(path, read, named=None):
    """Whether the file is read; an error must be of one line and name it."""
    try:
        read(path)
        return True
    except WeightsError as error:
        message = str(error)
    assert str(named or path) in message, message
    assert "\n" not in message
    return False


@pytest.mark.parametrize("name", KINDS)
def test_no_damage_is_more_than_an_error(folder, name):
    path, read = folder / name, KINDS[name][1]
    assert reads(path, read)
    content = path.read_bytes()
    for damaged in (None, *OTHER):
        with replaced(path, damaged):
            assert not reads(path, read), damaged
    for damaged in (*cut(content), *flipped(content)):
        with replaced(path, damaged):
            # An index may name another file of the folder.
            reads(path, read, named=folder if name.endswith("index.json") else name)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_refused(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(3, dtype=torch.bfloat16)}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    assert reads(path, read_tensors)
    content = path.read_bytes()
    for damaged in (None, *OTHER, *cut(content)[:-1]):
        with replaced(path, damaged):
            assert not reads(path, read_tensors), damaged
    for damaged in flipped(content):
        with replaced(path, damaged):
            reads(path, read_tensors)
    for other in ({1: tensors["a"]}, {"a": torch.ones(3).to_sparse()}, {"a": [1]}, "text"):
        torch.save(other, path, _use_new_zipfile_serialization=zipped)
        assert not reads(path, read_tensors)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", vit_fields),
        ("config.json", load_small_vit),
        ("preprocessor_config.json", vit_resize),
        ("model.safetensors", load_small_vit),
    ],
)
def test_every_file_of_a_folder_may_be_damaged(folder, name, read):
    vit = folder / "vit"
    path = vit / name
    content = path.read_bytes()
    assert reads(vit, read)
    for damaged in (*OTHER, *cut(content)[:-1]):
        with replaced(path, damaged):
            told = reads(vit, read, named=vit)
            assert not told or (name.startswith("pre") and damaged == b"{}"), damaged
    for damaged in flipped(content, 10):
        with replaced(path, damaged):
            reads(vit, read, named=vit)
    if name.endswith(".json"):
        for _, _, damaged in of_other_kinds(content):
            with replaced(path, damaged):
                reads(vit, read, named=vit)


def test_numbers_that_are_none_are_named(folder, tmp_path):
    """Tensors of text, and a config of more blocks than there are tensors."""
    config = json.loads((folder / "vit" / "config.json").read_text())
    other = write_folder(tmp_path / "vit")
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1000}))
    with pytest.raises(WeightsError, match=r"too few for the 1000 blocks"):
        read_vit(other)
    with np.load(folder / "vit.npz") as arrays:
        text = {**arrays, "embedding/bias": np.array(["a"] * 8)}
    np.savez(tmp_path / "vit.npz", **text)
    with pytest.raises(WeightsError, match=r"embedding.bias holds <U1 and should hold numbers"):
        read_vit(tmp_path / "vit.npz")


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e39])
def test_numbers_that_are_not_finite_in_float32_are_named(folder, tmp_path, bad):
    with np.load(folder / "vit.npz") as arrays:
        arrays = {**arrays, "embedding/bias": np.array([0] * 7 + [bad])}
    np.savez(tmp_path / "vit.npz", **arrays)
    with pytest.raises(WeightsError, match=r"vit\.npz: numbers of embedding.bias are not finite"):
        read_vit(tmp_path / "vit.npz")
    like = {"params": {"conv": {"kernel": np.zeros((3, 3, 3, 4)), "bias": np.zeros(4)}}}
    layers = {"conv": [numbers((3, 3, 3, 4)), np.array([0, 0, 0, bad])]}
    with pytest.raises(WeightsError, match="here: numbers of params/conv/bias are not finite"):
        to_variables(layers, like, "here")


def refuses(path, read, match):
    """Refuses the file within 40 MB."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=match):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def header_of(shape):
    """The head of a float32 .npy of that shape."""
    text = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", [(10**13,), (10**6, 10**6, 10**6), (200_000_000,), (-1,)])
def test_a_zip_of_a_header_that_claims_too_much(tmp_path, shape):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("embedding/kernel.npy", header_of(shape) + b"\0" * 64)
    with pytest.raises(WeightsError, match=r"w\.npz: is no \.npz file, or a damaged one"):
        read_vit(path)


def test_archives_that_unpack_to_far_more_than_they_hold(tmp_path):
    zeros = header_of((20_000_000,)) + bytes(80_000_000)
    for name, read in (("w.npz", read_vit), ("w.pth", read_tensors)):
        if name.endswith("pth"):
            pytest.importorskip("torch")
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/0.npy", zeros)
        refuses(tmp_path / name, read, rf"{name}: claims 80000\d+ bytes of arrays and has")


def test_a_torch_tensor_that_repeats_what_is_stored(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(1, dtype=torch.float16).expand(10**12)}, tmp_path / "w.pth")
    refuses(tmp_path / "w.pth", read_tensors, r"w\.pth: claims 2000000000000 bytes")
    shared = torch.zeros(1000, dtype=torch.float16)
    torch.save({f"{i}": shared for i in range(1000)}, tmp_path / "w.pth")
    refuses(tmp_path / "w.pth", read_tensors, r"w\.pth: claims 2000000 bytes")


def test_a_safetensors_that_claims_too_much(tmp_path):
    for end in (4 * 10**12, 4):
        tensor = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, end]}
        header = json.dumps({"a": tensor}).encode()
        content = struct.pack("<Q", len(header)) + header + b"\0" * 4
        (tmp_path / "w.safetensors").write_bytes(content)
        refuses(tmp_path / "w.safetensors", read_tensors, r"w\.safetensors: is no safetensors")
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    refuses(tmp_path / "w.safetensors", read_tensors, r"w\.safetensors: is no safetensors")


def test_a_safetensors_of_a_million_names(tmp_path):
    path = tmp_path / "w.safetensors"
    tensor = b'"x%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(tensor % number for number in range(300_000)) + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    for read in (read_tensors, read_shapes):
        refuses(path, read, r"w\.safetensors: \d+ bytes of names and shapes are more than")
    with pytest.raises(ValueError, match="bytes of names and shapes are more than"):
        load_variables(path)


def write_h5(path, fill):
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv"
        fill(group)


def test_hdf5_that_claims_too_much_or_points_elsewhere(tmp_path):
    path, secret = tmp_path / "w.weights.h5", tmp_path / "secret"
    secret.write_bytes(b"\1" * 400)
    write_h5(tmp_path / "other.h5", lambda group: group.create_dataset("0", data=numbers(3)))
    virtual = h5py.VirtualLayout((3,), np.float32)
    virtual[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "layers/conv2d/vars/0", (3,))

    def many_names(group):
        group["0"] = np.arange(50_000.0)
        for number in range(1, 100):
            group[str(number)] = group["0"]

    def packed(group):
        group.create_dataset("0", data=np.zeros(50_000_000, np.uint8), compression="gzip")

    cases = (
        (lambda group: group.create_dataset("0", (10**12,), np.float32, chunks=(1024,)), "claims"),
        (packed, "claims"),
        (
            lambda group: group.create_dataset("0", (100,), "f4", external=[(secret, 0, 400)]),
            "lies in another file",
        ),
        (lambda group: group.create_virtual_dataset("0", virtual), "lies in another file"),
        (
            lambda group: group.update(
                {"0": h5py.ExternalLink(str(tmp_path / "other.h5"), "layers/conv2d/vars/0")}
            ),
            "lies in another file",
        ),
        (
            lambda group: group.file.update(
                {"more": h5py.ExternalLink(str(tmp_path / "other.h5"), "layers")}
            ),
            "more lies in another file",
        ),
        (lambda group: group.update({"0": h5py.SoftLink("/layers")}), "lies in another file"),
        (
            lambda group: group.create_dataset(
                "0", (9,), "f4", chunks=(10**8,), maxshape=(None,), compression="gzip"
            ),
            "claims 400000000 bytes",
        ),
        (many_names, "claims"),
        (lambda group: group.create_group("0"), "holds no numbers"),
        (lambda group: group.create_dataset("0", data=[b"text"]), "holds no numbers"),
    )
    for fill, match in cases:
        write_h5(path, fill)
        refuses(path, read_keras_layers, rf"w\.weights\.h5: .*{match}")


def test_msgpack_that_claims_too_much(tmp_path):
    path = tmp_path / "w.msgpack"
    for content in (b"\xdd\xff\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01"):
        path.write_bytes(content * 3)
        refuses(path, read_weights, r"w\.msgpack: is no msgpack file of Flax")


def test_packed_word_vectors_are_read_a_line_at_a_time(tmp_path):
    path = tmp_path / "vectors.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(b"dog 1 2 3\n" + b"cat 1 2 3" + b" " * 60_000_000)
    assert os.path.getsize(path) < 1_000_000
    tracemalloc.start()
    reads(path, read_vectors)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    path = tmp_path / "header.txt"
    path.write_bytes(b"1 " + b"9" * 5000 + b"\n")
    assert not reads(path, read_vectors, named=path.name)
