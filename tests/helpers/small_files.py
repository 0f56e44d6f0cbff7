"""Small weight files of every kind that is read, and the readers."""

import json

import h5py
import numpy as np
import safetensors.numpy
from flax import serialization

from capjax.data.resize import Resize
from capjax.models.encoders.vit import ViT
from capjax.pretrained import tables
from capjax.pretrained.captioners.show_attend_tell import word_map_tokenizer
from capjax.pretrained.checkpoint_folders import read_weights
from capjax.pretrained.keras.files import read_keras_layers
from capjax.pretrained.saved import About, save_encoder
from capjax.pretrained.vit import huggingface, layouts
from capjax.pretrained.vit.read import load_vit, vit_fields
from capjax.pretrained.word_vectors import load_word_vectors
from tests.helpers.read_vit import read_vit

CONFIG = {"model_type": "vit", "image_size": 8, "patch_size": 4, "hidden_size": 8}
CONFIG |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_folder(folder):
    """A folder of Hugging Face's with a ViT of one block."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    size = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(size))
    fields, layout = huggingface.read_config(CONFIG, "here")
    shapes = tables.shapes(layouts.table(layout), layouts.shapes_of(fields))
    tensors = {name: numbers(shape) for name, shape in shapes.items()}
    tensors = {
        n: a[None] if n.startswith("embeddings.p") and a.ndim == 2 else a
        for n, a in tensors.items()
    }
    tensors["embeddings.cls_token"] = numbers((1, 1, 8))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


def write_own(path):
    """A ViT as `save_encoder` writes it."""
    folder = write_folder(path.parent / "source")
    save_encoder(path, About("vit", vit_fields(folder), Resize(8)), load_small_vit(folder))


def load_small_vit(source):
    """The parameters of that ViT, for an encoder that is known to have its fields."""
    fields, _ = huggingface.read_config(CONFIG, "here")
    return load_vit(ViT(**fields), str(source), 8)


def write_npz(path):
    """A ViT of one block as AugReg names it."""
    block = "Transformer/encoderblock_0"
    shapes = {
        "embedding/kernel": (4, 4, 3, 8),
        "embedding/bias": (8,),
        "cls": (1, 1, 8),
        "Transformer/posembed_input/pos_embedding": (1, 5, 8),
        f"{block}/MultiHeadDotProductAttention_1/out/kernel": (2, 4, 8),
        f"{block}/MultiHeadDotProductAttention_1/out/bias": (8,),
        f"{block}/MlpBlock_3/Dense_0/kernel": (8, 16),
        f"{block}/MlpBlock_3/Dense_0/bias": (16,),
        f"{block}/MlpBlock_3/Dense_1/kernel": (16, 8),
        f"{block}/MlpBlock_3/Dense_1/bias": (8,),
    }
    for part in ("query", "key", "value"):
        shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/kernel"] = (8, 2, 4)
        shapes[f"{block}/MultiHeadDotProductAttention_1/{part}/bias"] = (2, 4)
    for norm in (f"{block}/LayerNorm_0", f"{block}/LayerNorm_2", "Transformer/encoder_norm"):
        shapes |= {f"{norm}/scale": (8,), f"{norm}/bias": (8,)}
    np.savez(path, **{name: numbers(shape) for name, shape in shapes.items()})


def write_legacy_h5(path):
    """A layer in the `.h5` of Keras before 3."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = [b"conv/kernel:0", b"conv/bias:0"]
        group["conv/kernel:0"], group["conv/bias:0"] = numbers((3, 3, 3, 4)), numbers(4)


def write_keras_3_h5(path):
    """A layer in `.weights.h5`."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv"
        group["0"], group["1"] = numbers((3, 3, 3, 4)), numbers(4)


def write_msgpack(path):
    """Arrays of Flax."""
    path.write_bytes(serialization.msgpack_serialize({"a": {"kernel": numbers((3, 4))}}))


def write_vectors(path):
    """Word vectors, three numbers each."""
    path.write_text("dog 1 2 3\ncat -1.5 2e-3 0\n" * 20)


def write_word_map(path):
    """The word map of the PyTorch tutorial."""
    words = ("<pad>", "dog", "<start>", "<end>", "<unk>")
    path.write_text(json.dumps({word: number for number, word in enumerate(words)}))


def write_index(path):
    """An index of one file of tensors."""
    safetensors.numpy.save_file({"a": numbers(3)}, path.parent / "part.safetensors")
    path.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))


def read_vectors(path):
    """Three numbers a word."""
    return load_word_vectors(path, (None, "dog", "cat"), 3)


# Name of a file, what writes it and what reads it.
KINDS = {
    "own.safetensors": (write_own, load_small_vit),
    "vit.npz": (write_npz, read_vit),
    "legacy.h5": (write_legacy_h5, read_keras_layers),
    "keras3.weights.h5": (write_keras_3_h5, read_keras_layers),
    "flax.msgpack": (write_msgpack, read_weights),
    "vectors.txt": (write_vectors, read_vectors),
    "word_map.json": (write_word_map, word_map_tokenizer),
    "model.index.json": (write_index, read_weights),
}
