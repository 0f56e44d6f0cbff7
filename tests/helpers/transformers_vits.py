"""Small ViTs of transformers with random weights, and what they give: the reference of the tests.

Importing it needs torch and transformers.
"""

import contextlib
import functools
import io
import sys
import types

import jax
import numpy as np
import torch
import transformers
from flax import serialization, traverse_util

from capjax.models.encoders.vit import ViT

_SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 4}
BASE = {**_SIZES, "intermediate_size": 40, "image_size": 16}
DINO = {**_SIZES, "mlp_ratio": 2, "image_size": 16}
WORDS = {"n_embd": 24, "n_layer": 1, "n_head": 3, "n_positions": 8, "vocab_size": 20}
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
TEXT = {**ENDS, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
TEXT |= {"intermediate_size": 40, "vocab_size": 20}


def _encoder_decoder():
    decoder = transformers.GPT2Config(**WORDS, **ENDS, add_cross_attention=True)
    return transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(transformers.ViTConfig(**BASE)),
        decoder=transformers.GPT2LMHeadModel(decoder),
    )


def _pair(name):
    config = getattr(transformers, f"{name}Config")(vision_config=BASE, text_config=TEXT)
    return getattr(transformers, f"{name}Model")(config)


def _alone(name, config, **fields):
    return getattr(transformers, name)(getattr(transformers, config)(**fields))


# By name: what makes the model, and where its vision tower lies.
MODELS = {
    "vit": (lambda: _alone("ViTModel", "ViTConfig", **BASE), ""),
    "vit_tanh": (
        lambda: _alone("ViTModel", "ViTConfig", **BASE, hidden_act="gelu_pytorch_tanh"),
        "",
    ),
    "vit_classifier": (
        lambda: _alone("ViTForImageClassification", "ViTConfig", **BASE),
        "vit",
    ),
    "vit_masked": (lambda: _alone("ViTForMaskedImageModeling", "ViTConfig", **BASE), "vit"),
    "deit": (lambda: _alone("DeiTModel", "DeiTConfig", **BASE), ""),
    "clip_vision": (lambda: _alone("CLIPVisionModel", "CLIPVisionConfig", **BASE), ""),
    "clip": (lambda: _pair("CLIP"), "vision_model"),
    "siglip_vision": (lambda: _alone("SiglipVisionModel", "SiglipVisionConfig", **BASE), ""),
    "siglip": (lambda: _pair("Siglip"), "vision_model"),
    "dinov2": (lambda: _alone("Dinov2Model", "Dinov2Config", **DINO), ""),
    "dinov2_gated": (
        lambda: _alone("Dinov2Model", "Dinov2Config", **DINO, use_swiglu_ffn=True),
        "",
    ),
    "dinov2_registers": (
        lambda: _alone("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **DINO),
        "",
    ),
    "encoder_decoder": (_encoder_decoder, "encoder"),
}


def make(name, seed=0):
    """A model whose parameters are all random: norms, scales, biases and tokens, too."""
    model = MODELS[name][0]().eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def save(model, folder, **options):
    """`save_pretrained` without its bar."""
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder, **options)


def pictures(size, count=2, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def normalised(images, fields):
    """Pixels [B, 3, H, W] as torch's models take them."""
    pixels = (images.astype(np.float32) / 255 - np.float32(fields["mean"])) / np.float32(
        fields["std"]
    )
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def reference(name, model, pixels):
    """The last hidden state [B, P, D] of the vision tower, by NumPy."""
    tower = model.get_submodule(MODELS[name][1])
    options = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        return tower(pixels, **options).last_hidden_state.numpy()


def features(fields, variables, images):
    """The memory of `ViT(**fields)`."""
    return _apply(tuple(fields.items()))(variables, images)


@functools.cache
def _apply(fields):
    encoder = ViT(**dict(fields))
    # Compiling takes longer than all else here.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(lambda v, x: encoder.apply(v, x, train=False), compiler_options=quick)


def assert_close(ours, theirs, relative=1e-5):
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-2
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def as_flax(name, array):
    """A tensor by the name and with the axes that transformers' Flax models have."""
    at, _, last = name.replace(".", "/").rpartition("/")
    if last != "weight":
        return f"{at}/{last}", array
    if array.ndim == 4:
        return f"{at}/kernel", array.transpose(2, 3, 1, 0)
    if array.ndim == 1:
        return f"{at}/scale", array
    if at.endswith(("embedding", "wte", "wpe")):
        return f"{at}/embedding", array
    # Their Conv1D's is [out, in], and torch's [in, out]; of dense layers it is the other way.
    return f"{at}/kernel", array.T


def write_torch(file, tensors):
    """Writes arrays as torch does."""
    torch.save({name: torch.from_numpy(np.asarray(a)) for name, a in tensors.items()}, file)


def write_flax(folder, tensors):
    """Writes a model's tensors as transformers' Flax models were."""
    flat = dict(as_flax(name, array) for name, array in tensors.items())
    tree = traverse_util.unflatten_dict(flat, sep="/")
    (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
    return flat


def fake_hub(monkeypatch, serve):
    """Replaces huggingface_hub: `serve` takes a name and patterns, and gives a folder.

    Returns the list of the patterns that are asked for.
    """
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns)
        return str(serve(name, allow_patterns))

    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked
