"""ViTs in the format of Hugging Face's transformers: what their config says, and their names.

Of a CLIP, a SigLIP or an encoder-decoder, the vision tower. The defaults are those of
transformers' configuration classes, since a published config.json may leave them out.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from capjax.pretrained import tables
from capjax.pretrained.errors import ExportError, WeightsError
from capjax.pretrained.preprocessing_file import CLIP, HALF, IMAGENET
from capjax.pretrained.vit import layouts
from capjax.pretrained.vit.layouts import Layout

# Sizes in a config, and the fields of `ViT` that they are.
_SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
    "patch_size": "patch_size",
}
# What none exceeds by far: a wrong one is no model to make.
_LARGEST = 1 << 16
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}

_VIT = Layout(
    tokens=("embeddings.cls_token",),
    positioned=1,
    positions="embeddings.position_embeddings",
    patches="embeddings.patch_embeddings.projection",
    embedding_norm="",
    block="encoder.layer.{}.",
    norms=("layernorm_before", "layernorm_after"),
    attention=tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
    out="attention.output.dense",
    feed_forward=("intermediate.dense", "output.dense"),
    scales=("", ""),
    norm="layernorm",
    left_out=("pooler.", "embeddings.mask_token", "classifier."),
)
_DEIT = dataclasses.replace(
    _VIT, tokens=("embeddings.cls_token", "embeddings.distillation_token"), positioned=2
)
_DINOV2 = dataclasses.replace(
    _VIT,
    norms=("norm1", "norm2"),
    feed_forward=("mlp.fc1", "mlp.fc2"),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
_REGISTERS = dataclasses.replace(
    _DINOV2, tokens=("embeddings.cls_token", "embeddings.register_tokens")
)
_CLIP = Layout(
    tokens=("embeddings.class_embedding",),
    positioned=1,
    positions="embeddings.position_embedding.weight",
    patches="embeddings.patch_embedding",
    embedding_norm="pre_layrnorm",
    block="encoder.layers.{}.",
    norms=("layer_norm1", "layer_norm2"),
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.out_proj",
    feed_forward=("mlp.fc1", "mlp.fc2"),
    scales=("", ""),
    norm="post_layernorm",
    # Its last norm is of the pooled class token alone.
    left_out=("post_layernorm.", "embeddings.position_ids", "visual_projection."),
)
_SIGLIP = dataclasses.replace(
    _CLIP, tokens=(), positioned=0, left_out=("head.", "embeddings.position_ids")
)
_BLIP = dataclasses.replace(
    _CLIP,
    positions="embeddings.position_embedding",
    embedding_norm="",
    attention=("self_attn.qkv",),
    out="self_attn.projection",
    left_out=(),
)
_GIT = dataclasses.replace(_CLIP, left_out=("embeddings.position_ids",))


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A model_type of config.json.

    Attributes:
      layout: its names.
      defaults: of its config.
      fields: of `ViT`, which it fixes.
      pixels: their usual mean and deviation.
      unused: tensors that transformers' model has and its last states do not need, at rest, by
        the width.
      renamed: parts of the layout that current releases have other modules for.
    """

    layout: Layout
    defaults: Mapping[str, Any]
    fields: Mapping[str, Any]
    pixels: Mapping[str, tuple[float, float, float]]
    unused: Mapping[str, Callable[[int], np.ndarray]] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_POOLER = {
    "pooler.dense.weight": lambda width: np.zeros((width, width)),
    "pooler.dense.bias": np.zeros,
}
_POOLED_NORM = {"post_layernorm.weight": np.ones, "post_layernorm.bias": np.zeros}
_MASK_TOKEN = {"embeddings.mask_token": lambda width: np.zeros((1, width))}
_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}
_DINO = {**_BASE, "patch_size": 14, "layer_norm_eps": 1e-6, "mlp_ratio": 4, "use_swiglu_ffn": False}
_OF_CLIP = {**_BASE, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_OF_SIGLIP = {**_BASE, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_ATTENTION = {
    "attention": tuple(f"attention.{part}_proj" for part in "qkv"),
    "out": "attention.o_proj",
}
_LAYERS = {**_ATTENTION, "block": "layers.{}.", "feed_forward": ("mlp.fc1", "mlp.fc2")}
_KINDS = {
    "vit": _Kind(_VIT, _BASE, {}, HALF, _POOLER, _LAYERS),
    "deit": _Kind(_DEIT, _BASE, {"prefix": 2}, IMAGENET, _POOLER, _LAYERS),
    "clip_vision_model": _Kind(
        _CLIP,
        _OF_CLIP,
        {"patch_bias": False, "pre_norm": True, "final_norm": False},
        CLIP,
        _POOLED_NORM,
    ),
    "siglip_vision_model": _Kind(_SIGLIP, _OF_SIGLIP, {"prefix": 0}, HALF),
    "dinov2": _Kind(_DINOV2, _DINO, {"layer_scale": True}, IMAGENET, _MASK_TOKEN, _ATTENTION),
    "dinov2_with_registers": _Kind(
        _REGISTERS,
        {**_DINO, "patch_size": 16, "num_register_tokens": 4},
        {"layer_scale": True, "resample": "bicubic_antialias"},
        IMAGENET,
        _MASK_TOKEN,
        _ATTENTION,
    ),
    "blip_vision_model": _Kind(
        _BLIP, {**_BASE, "layer_norm_eps": 1e-5, "image_size": 384}, {}, CLIP
    ),
    "git_vision_model": _Kind(
        _GIT,
        {**_OF_CLIP, "patch_size": 16},
        {"patch_bias": False, "pre_norm": True},
        CLIP,
    ),
}
# Those that are models of their own, and no part of one captioner.
ALONE = tuple(name for name in _KINDS if name not in ("blip_vision_model", "git_vision_model"))
# Models with the vision tower among others.
_TOWERS = ("clip", "siglip", "blip", "git")


def read_config(config: Mapping[str, Any], path: str) -> tuple[dict[str, Any], Layout]:
    """Reads the config.json of a ViT.

    Args:
      config: the whole of it.
      path: of the file, for the message.

    Returns:
      All fields of `ViT` but its dtype, where mean and std are those usual for the model, and the
      layout of its tensors.

    Raises:
      WeightsError: it is another model, or one that `ViT` can't be; says which there are.
    """
    model_type, config = _vision_config(config)
    if model_type not in _KINDS:
        more = ""
        if model_type and model_type.startswith("siglip2"):
            more = "; of SigLIP 2, those of one fixed resolution, whose model_type is siglip"
        raise WeightsError(
            f"{path}: its model_type is {model_type!r}, and must be {', '.join(ALONE)}, "
            f"{', '.join(_TOWERS)}, or vision-encoder-decoder with one of the first{more}"
        )
    kind = _KINDS[model_type]
    config = {**kind.defaults, **{n: v for n, v in config.items() if v is not None}}
    if config["num_channels"] != 3:
        raise WeightsError(f"{path}: num_channels is {config['num_channels']}, and must be 3")
    if config["hidden_act"] not in _ACTIVATIONS:
        raise WeightsError(
            f"{path}: hidden_act is {config['hidden_act']!r}, and must be {', '.join(_ACTIVATIONS)}"
        )
    for name in (*_SIZES, "image_size"):
        if not all(isinstance(n, int) and 1 <= n <= _LARGEST for n in _pair(config[name])):
            raise WeightsError(
                f"{path}: {name} is {config[name]!r:.60}, and must be 1 to {_LARGEST}"
            )
    rows, columns = _pair(config["image_size"])
    patch, other = _pair(config["patch_size"])
    if patch != other:
        raise WeightsError(f"{path}: patch_size is {patch}x{other}, and must be square")
    fields = {
        **{ours: config[theirs] for theirs, ours in _SIZES.items()},
        "patch_size": patch,
        "position_grid": (rows // patch, columns // patch),
        "prefix": 1 + config.get("num_register_tokens", 0),
        "patch_bias": True,
        "pre_norm": False,
        "final_norm": True,
        "layer_scale": False,
        "gated": False,
        "activation": _ACTIVATIONS[config["hidden_act"]],
        "epsilon": config["layer_norm_eps"],
        "resample": "bicubic",
        **kind.pixels,
        **kind.fields,
    }
    layout = kind.layout
    if "mlp_ratio" in kind.defaults:
        fields["mlp_dim"] = int(config["hidden_size"] * config["mlp_ratio"])
        if config["use_swiglu_ffn"]:
            # As transformers' Dinov2SwiGLUFFN rounds.
            hidden = (int(fields["mlp_dim"] * 2 / 3) + 7) // 8 * 8
            fields |= {"mlp_dim": hidden, "gated": True, "activation": "silu"}
            names = ("mlp.weights_in", "mlp.weights_out")
            layout = dataclasses.replace(layout, feed_forward=names)
    return fields, layout


def write_config(
    fields: Mapping[str, Any], image_size: int, model_types: Sequence[str] = ALONE
) -> dict[str, Any]:
    """Returns the section of a config.json for a ViT, the inverse of `read_config`.

    Args:
      fields: of a `ViT` whose positions are those of the images' grid, which makes resampling
        none of its matters. The mean and deviation of pixels are the preprocessor's.
      image_size: side of the images.
      model_types: of the models to choose from, best first.

    Returns:
      The section of the first of them that is the same.

    Raises:
      ExportError: none is.
    """
    elsewhere = ("mean", "std", "resample")
    differ = {}
    for model_type in model_types:
        section = _section(model_type, fields, image_size)
        stated, _ = read_config(section, model_type)
        differ[model_type] = {
            name: value
            for name, value in stated.items()
            if name not in elsewhere and value != fields[name]
        }
        if not differ[model_type]:
            return section
    nearest = min(differ, key=lambda name: len(differ[name]))
    ours = ", ".join(f"config.encoder.{name}={fields[name]!r}" for name in differ[nearest])
    theirs = ", ".join(f"{name}={value!r}" for name, value in differ[nearest].items())
    raise ExportError(
        f"{ours}: transformers has no vision model that is so; the nearest, {nearest}, has {theirs}"
    )


def _section(model_type: str, fields: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """Returns the section that comes nearest to the fields."""
    defaults, width = _KINDS[model_type].defaults, fields["width"]
    # The last of several names is the one that its authors would have.
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items() if theirs != "gelu_python"}
    section = {
        "model_type": model_type,
        **{theirs: fields[ours] for theirs, ours in _SIZES.items()},
        "hidden_act": names.get(fields["activation"], defaults["hidden_act"]),
        "layer_norm_eps": fields["epsilon"],
        "image_size": image_size,
    }
    if "mlp_ratio" in defaults:
        del section["intermediate_size"]
        # Of a gated one two thirds are kept (see `read_config`). transformers wants whole ratios.
        gated = {"use_swiglu_ffn": fields["gated"]}
        ratio = (3 if fields["gated"] else 2) * fields["mlp_dim"] // (2 * width)
        section |= {"mlp_ratio": ratio, **gated}
    if "num_register_tokens" in defaults:
        section["num_register_tokens"] = max(fields["prefix"] - 1, 0)
    if model_type == "siglip_vision_model":
        section["vision_use_head"] = False  # Of a pooler, which would need weights.
    return section


def to_tensors(
    params: Mapping[str, Any], fields: Mapping[str, Any], section: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns all tensors of transformers' model, named as it does.

    Args:
      params: of `ViT(**fields)`.
      fields: of the module.
      section: from `write_config`.
    """
    kind = _KINDS[section["model_type"]]
    _, layout = read_config(section, section["model_type"])
    tensors = tables.write(layouts.table(layout), params)
    # An embedding of torch has the positions' two axes, and a class token beside it one; a
    # parameter that is added to a batch has three.
    embedded = layout.positions.endswith(".weight")
    for name in layout.tokens:
        tensors[name] = tensors[name][0 if embedded else None]
    if not embedded:
        tensors[layout.positions] = tensors[layout.positions][None]
    return tensors | {name: make(fields["width"]) for name, make in kind.unused.items()}


def module_tables(section: Mapping[str, Any]) -> tuple[tables.Table, ...]:
    """Returns tables of a ViT's parameters by the names of transformers' modules.

    Current releases name some modules otherwise than the tensors of files; theirs come first.
    """
    _, layout = read_config(section, section["model_type"])
    renamed = dataclasses.replace(layout, **_KINDS[section["model_type"]].renamed)
    return tuple(layouts.table(each) for each in dict.fromkeys((renamed, layout)))


def left_out(section: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what the names of tensors start with that `ViT` has no parameters for."""
    return read_config(section, section["model_type"])[1].left_out


def _vision_config(config: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """The model_type and the section of the vision tower."""
    model_type = config.get("model_type")
    if model_type == "vision-encoder-decoder":
        return _vision_config(config.get("encoder") or {})
    # Old CLIPs have a second section, which counts before the first.
    parts = [config.get(name) for name in ("vision_config", "vision_config_dict")]
    if model_type in _TOWERS or any(isinstance(part, Mapping) for part in parts):
        section = {**(parts[0] or {}), **(parts[1] or {})}
        own = f"{model_type}_vision_model"
        return own if own in _KINDS else section.get("model_type", own), section
    return model_type, config


def _pair(size: Any) -> tuple[Any, Any]:
    return tuple(size) if isinstance(size, list) and len(size) == 2 else (size, size)
