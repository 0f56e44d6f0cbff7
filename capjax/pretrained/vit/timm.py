"""ViTs in timm's naming (github.com/huggingface/pytorch-image-models), and DINOv2's own files.

A file of tensors does not say all of a model. What its shapes do not show is read from timm's
config.json beside it, or is what timm has for a model of that name and those parts.
"""

import re
from collections.abc import Mapping
from typing import Any

from absl import logging

from capjax.pretrained.preprocessing_file import CLIP, HALF, IMAGENET
from capjax.pretrained.vit.layouts import Layout

TIMM = Layout(
    tokens=("cls_token", "dist_token", "reg_token"),
    positioned=1,
    positions="pos_embed",
    patches="patch_embed.proj",
    embedding_norm="norm_pre",
    block="blocks.{}.",
    norms=("norm1", "norm2"),
    attention=("attn.qkv",),
    out="attn.proj",
    feed_forward=("mlp.fc1", "mlp.fc2"),
    scales=("ls1.gamma", "ls2.gamma"),
    norm="norm",
    left_out=("head.", "head_dist.", "fc_norm.", "pre_logits.", "attn_pool.", "mask_token"),
)
# The names in Meta's own files of DINOv2, by timm's.
_META = {"register_tokens": "reg_token", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}
# Heads that are not 64 wide, by the model's width (vision_transformer.py).
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
_TANH = re.compile(
    r"(base_patch32|so400m_patch16|giantopt_patch16)_siglip|large_patch16_siglip_(gap_)?512"
)


def timm_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors or shapes by timm's names where Meta's own file has others."""
    found = {}
    for name, tensor in tensors.items():
        for theirs, timms in _META.items():
            name = name.replace(theirs, timms)
        found[name] = tensor
    return found


def usual_fields(
    fields: Mapping[str, Any], name: str, config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `ViT` fields that shapes do not show.

    Args:
      fields: those that shapes show, from `layouts.read_fields`.
      name: of the model ("vit_base_patch16_224"), or of its file.
      config: timm's config.json, or nothing.

    Returns:
      The fields that are known, and those that are usual for such a model.
    """
    about = config.get("pretrained_cfg") or {}
    stated = {part: tuple(map(float, about[part])) for part in ("mean", "std") if about.get(part)}
    width = fields["width"]
    heads = 16 if "giantopt" in name else _HEADS.get(width, max(width // 64, 1))
    activation = "gelu"
    if fields["gated"]:
        activation = "silu"
    elif "quickgelu" in name:
        activation = "quick_gelu"
    elif _TANH.search(name):
        activation = "gelu_tanh"
    if activation == "gelu" and any("QuickGELU" in note for note in about.get("notes") or ()):
        logging.warning(
            "%s was trained with encoder.activation='quick_gelu'; timm computes it with 'gelu' "
            "under this name, and so does this. timm's name with quickgelu has the other",
            name,
        )
    pixels = HALF
    if fields["pre_norm"]:
        pixels = CLIP
    elif fields["layer_scale"] or "deit" in name:
        pixels = IMAGENET
    usual = {
        "num_heads": heads,
        "activation": activation,
        # timm's LayerNorm, and torch's, which it takes for CLIP.
        "epsilon": 1e-5 if fields["pre_norm"] else 1e-6,
        **pixels,
    }
    return {"resample": "bicubic_antialias", **stated}, usual
