"""A captioner of capjax with the fields, names and files of a captioner of transformers."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from capjax.data.resize import Resize
from capjax.data.tokenizer import Tokenizer
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner, Variables
from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.encoders.patch import PatchEncoder
from capjax.models.encoders.vit import ViT, resample_positions
from capjax.models.layers import sincos_positions
from capjax.pretrained.captioners.captioner import FAMILIES, Family, Fields, PretrainedCaptioner
from capjax.pretrained.captioners.generation_file import Generation
from capjax.pretrained.captioners.projection import PROJECTION
from capjax.pretrained.errors import ExportError
from capjax.pretrained.preprocessing_file import HALF
from capjax.pretrained.vit.read import FIELDS

# Fields of `TransformerDecoder` that a config.json has.
_NAMES = (
    *("vocab_size", "max_length", "width", "num_layers", "num_heads", "mlp_ratio"),
    *("activation", "epsilon", "dropout", "attention_dropout"),
)


def exportable(
    model: Captioner,
    variables: Variables,
    tokenizer: Tokenizer,
    resize: Resize,
    generation: Generation,
    label_smoothing: float = 0.0,
) -> PretrainedCaptioner:
    """Returns the same captioner, made of parts that transformers has.

    Args:
      model: of a run.
      variables: of the model, NumPy.
      tokenizer: of the run; it bans the tokens that the decoder bans.
      resize: makes the model's images; the position embeddings are resampled to their grid.
      generation: settings of decoding.
      label_smoothing: of its training.

    Raises:
      ExportError: transformers has no such parts; names the field of the config, and what it has.
    """
    params = variables["params"]
    family = _family(model.decoder)
    decoder = {name: getattr(model.decoder, name) for name in (*_NAMES, *family.own_fields)}
    if not isinstance(model.encoder, PatchEncoder | ViT):
        raise ExportError(
            f"config.encoder.name: a {type(model.encoder).__name__} is nothing that transformers' "
            "captioners have; 'patch' and 'vit' export"
        )
    if family.projects:
        _check_widths(model.encoder.width, decoder["width"], model.adapter)
    elif model.adapter is not None:
        raise ExportError(
            f"config.adapter is nothing that a {family.architecture} of transformers has; a run "
            "without it exports"
        )
    encoder, encoder_params = _as_vit(model.encoder, params["encoder"], resize.size)
    adapter = None if model.adapter is None else {"width": decoder["width"], **PROJECTION}
    return PretrainedCaptioner(
        family,
        encoder,
        Fields(decoder, adapter, label_smoothing),
        {"params": {**params, "encoder": encoder_params}},
        resize,
        tokenizer,
        generation,
    )


def _family(decoder: nn.Module) -> Family:
    """Returns the family of a decoder; raises ExportError if transformers has none."""
    families = {FAMILIES.get(name).decoder: FAMILIES.get(name) for name in FAMILIES.names()}
    # A transformer may have all that GPT-2 has.
    family = families.get(type(decoder))
    if family is None and isinstance(decoder, TransformerDecoder):
        family = families[GPT2Decoder]
    if family is None:
        names = ", ".join(repr(each.decoder_name) for each in families.values())
        raise ExportError(
            f"config.decoder.name: a {type(decoder).__name__} is nothing that transformers has; "
            f"{names} export"
        )
    wanted = {**family.fixed, "head_dim": decoder.width // decoder.num_heads}
    fields = {**{name: getattr(decoder, name) for name in wanted}, "head_dim": decoder.head_width}
    for name, found in fields.items():
        if found != (value := wanted[name]):
            raise ExportError(
                f"config.decoder.{name}={found!r} is no {family.decoder_title}'s, which "
                f"transformers has; it must be {value!r}, as all fields of "
                f"base.{family.decoder_name}_decoder() are"
            )
    return family


def _as_vit(
    encoder: PatchEncoder | ViT, params: Mapping[str, Any], image_size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns fields and parameters of the `ViT` that computes the same for such images."""
    if isinstance(encoder, PatchEncoder):
        return _patches_as_vit(encoder, params, image_size)
    fields = {name: getattr(encoder, name) for name in FIELDS}
    old, new = tuple(fields["position_grid"]), (image_size // encoder.patch_size,) * 2
    table = resample_positions(jnp.asarray(params["positions"]), old, new, encoder.resample)
    return {**fields, "position_grid": new}, {**params, "positions": np.asarray(table)}


def _patches_as_vit(
    encoder: PatchEncoder, params: Mapping[str, Any], image_size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    grid = (image_size // encoder.patch_size,) * 2
    fields = {
        "patch_size": encoder.patch_size,
        "width": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.num_heads,
        "mlp_dim": round(encoder.mlp_ratio * encoder.width),
        "position_grid": grid,
        "prefix": int(encoder.class_token),
        "patch_bias": True,
        "pre_norm": False,
        "final_norm": True,
        "layer_scale": False,
        "gated": False,
        "activation": "gelu_tanh",
        "epsilon": nn.LayerNorm.epsilon,
        **HALF,
        "resample": "bicubic",
    }
    if encoder.positions == "learned":
        positions = params["grid_positions"]["table"]
    else:
        positions = sincos_positions(grid, encoder.width)
    found = {"positions": positions}
    found |= {name: params[name] for name in ("patch_embedding", "norm")}
    if encoder.class_token:
        found["prefix_tokens"] = params["class_token"][0]
    for number in range(encoder.depth):
        block = dict(params[f"block_{number}"])
        dense = block.pop("feed_forward")
        found[f"block_{number}"] = {**block, **dense}
    return fields, found


def _check_widths(encoder: int, decoder: int, adapter: Adapter | None) -> None:
    """Raises ExportError where transformers would have a projection and there is none, or another.

    It has one if, and only if, the widths differ.
    """
    if adapter is None:
        if encoder != decoder:
            raise ExportError(
                f"config.encoder.width={encoder} is not config.decoder.width={decoder}, between "
                "which transformers has a projection; config.adapter may be one: base.adapter() "
                f"with {_listed({**PROJECTION, 'width': decoder})}"
            )
        return
    for name, value in {**PROJECTION, "width": decoder}.items():
        if (found := getattr(adapter, name)) != value:
            raise ExportError(
                f"config.adapter.{name}={found!r} is not transformers' projection, which has "
                f"{_listed({**PROJECTION, 'width': decoder})}"
            )
    if encoder == decoder:
        raise ExportError(
            f"config.adapter.width={decoder} is config.encoder.width, too, where transformers has "
            "no projection; a run without config.adapter exports"
        )


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in fields.items())
