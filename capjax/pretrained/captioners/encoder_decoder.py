"""Captioners of Hugging Face: VisionEncoderDecoder with a ViT and a GPT-2, read whole.

A folder of theirs, or a name on huggingface.co, has config.json, weights of any kind that
`checkpoint_folders` knows, preprocessor_config.json, tokenizer files and generation_config.json.
Nothing in them is executed.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.resize import Resize
from capjax.data.tokenizer import Tokenizer
from capjax.models.adapter import Adapter
from capjax.models.captioner import Captioner
from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.models.encoders.vit import ViT
from capjax.pretrained import tables
from capjax.pretrained.captioners import generation_file, gpt2, gpt2_tokenizer
from capjax.pretrained.captioners.generation_file import Generation, read_generation
from capjax.pretrained.captioners.gpt2_tokenizer import read_tokenizer
from capjax.pretrained.captioners.projection import PROJECTION
from capjax.pretrained.checkpoint_folders import (
    CONFIGS,
    folder_and_file,
    read_json,
    read_weights,
    weights_file,
)
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.vit import huggingface
from capjax.pretrained.vit.layouts import own_tensors, to_variables
from capjax.pretrained.vit.read import vit_fields, vit_resize

FILES = (*CONFIGS, generation_file.FILE, *gpt2_tokenizer.FILES)
_DENSE = "enc_to_dec_proj"
ADAPTER = tables.dense(_DENSE, "adapter/projection")


@dataclasses.dataclass(frozen=True)
class PretrainedCaptioner:
    """The content of a folder.

    Attributes:
      encoder: fields of `ViT`, all but its dtype.
      decoder: fields of `GPT2Decoder` that the weights depend on; dropout rates may be there, too.
      projection: whether a dense layer brings the encoder's width to the decoder's.
      variables: {"params": {"encoder", "decoder", "adapter"}}, the last where there is a
        projection; NumPy, float32.
      resize: what makes squares of images.
      tokenizer: GPT-2's, whose "<|endoftext|>" starts, ends and pads a caption, or another with
        tokens for that; what it bans is never generated.
      generation: how it is meant to caption.
    """

    encoder: Mapping[str, Any]
    decoder: Mapping[str, Any]
    projection: bool
    variables: dict[str, Any]
    resize: Resize
    tokenizer: Tokenizer
    generation: Generation

    def module(self, dtype: Any = jnp.float32) -> Captioner:
        """Builds the module of `variables`; `dtype` is the computation's."""
        fields = {**self.decoder, "banned": self.tokenizer.banned_ids}
        return captioner(self.encoder, fields, projection=self.projection, dtype=dtype)

    def sections(self) -> dict[str, dict[str, Any]]:
        """Returns the fields of a config that the files say, by section."""
        decoder = {name: value for name, value in self.decoder.items() if name != "vocab_size"}
        pixels = dataclasses.asdict(self.resize)
        found = {
            "dataset": {"image_size": pixels.pop("size"), **pixels},
            "encoder": {"name": "vit", **self.encoder},
            "decoder": {"name": "gpt2", **decoder},
            "decoding": self.generation.section(),
        }
        if self.projection:
            found["adapter"] = {"width": self.decoder["width"], **PROJECTION}
        return found


def captioner(
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    *,
    projection: bool,
    dtype: Any = jnp.float32,
) -> Captioner:
    """Builds the module of a VisionEncoderDecoder; the fields as of `PretrainedCaptioner`."""
    adapter = None
    if projection:
        adapter = Adapter(decoder["width"], **PROJECTION, dtype=dtype)
    return Captioner(ViT(**encoder, dtype=dtype), GPT2Decoder(**decoder, dtype=dtype), adapter)


def read_captioner(source: str | os.PathLike, *, weights: bool = True) -> PretrainedCaptioner:
    """Reads a captioner of transformers.

    Args:
      source: a folder, or the name of one on huggingface.co, "organisation/name".
      weights: whether they are read, too; otherwise `variables` is empty.

    Raises:
      WeightsError: there is no such source, or it is no ViT with GPT-2, or one that can't be had
        here the same; names the file and the field or the tensor.
    """
    folder, _ = folder_and_file(source, weights=weights, files=FILES)
    at = os.path.join(folder, "config.json")
    decoder, projection = read_fields(read_json(at), at)
    tokenizer = read_tokenizer(folder)
    if tokenizer.vocab_size != decoder["vocab_size"]:
        raise WeightsError(
            f"{at}: the decoder has vocab_size={decoder['vocab_size']}, and the tokenizer beside "
            f"it {tokenizer.vocab_size} tokens"
        )
    generation = read_generation(folder, tokenizer)
    if generation.max_length > decoder["max_length"] + 1:
        raise WeightsError(
            f"{folder}: captions of up to {generation.max_length} tokens are asked for, and the "
            f"decoder's n_positions={decoder['max_length']} allow {decoder['max_length'] + 1}"
        )
    variables = read_variables(folder) if weights else {}
    return PretrainedCaptioner(
        vit_fields(folder),
        decoder,
        projection,
        variables,
        vit_resize(folder),
        tokenizer,
        generation,
    )


def read_fields(config: Mapping[str, Any], path: str) -> tuple[dict[str, Any], bool]:
    """Reads from a config.json the decoder's fields, and whether there is a projection before it.

    Args:
      config: the whole of it.
      path: of the file, for the message.

    Raises:
      WeightsError: it is no VisionEncoderDecoder of a ViT and a GPT-2 that attends to it.
    """
    if config.get("model_type") != "vision-encoder-decoder":
        raise WeightsError(
            f"{path}: its model_type is {config.get('model_type')!r}, and a captioner's is "
            "'vision-encoder-decoder'"
        )
    encoder, _ = huggingface.read_config(config, path)
    section = config.get("decoder") or {}
    fields, cross = gpt2.read_config(section, path)
    if not cross:
        raise WeightsError(
            f"{path}: the decoder's add_cross_attention=false is not supported; it must be true"
        )
    differs = encoder["width"] != fields["width"]
    # transformers leaves the projection out where this is given, and its GPT-2 can't do without.
    if differs and section.get("cross_attention_hidden_size") is not None:
        raise WeightsError(
            f"{path}: the decoder's cross_attention_hidden_size="
            f"{section['cross_attention_hidden_size']} is not supported; it must be null"
        )
    return fields, differs


def read_variables(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads the variables of the captioner in a folder, as `PretrainedCaptioner` has them.

    Raises:
      WeightsError: as `read_captioner`.
    """
    at, file = os.path.join(folder, "config.json"), weights_file(folder)
    config = read_json(at)
    decoder, projection = read_fields(config, at)
    _, layout = huggingface.read_config(config, at)
    encoder = vit_fields(folder)
    parts: dict[str, dict[str, np.ndarray]] = {"encoder": {}, "decoder": {}, _DENSE: {}}
    for name, array in read_weights(file).items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise WeightsError(
                f"{file}: has {name} {list(array.shape)}, and may have {', '.join(parts)}"
            )
        # The decoder's and the projection's keep their whole names, for messages.
        parts[part][rest if part == "encoder" else name] = array
    params = {
        "encoder": to_variables(own_tensors(parts["encoder"], layout, file), layout, encoder, file)[
            "params"
        ],
        "decoder": gpt2.to_params(parts["decoder"], decoder, file, cross=True),
    }
    like = {}
    if projection:
        shapes = (encoder["width"], decoder["width"]), (decoder["width"],)
        kernel, bias = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
        like = {"adapter": {"projection": {"kernel": kernel, "bias": bias}}}
    params |= tables.read(ADAPTER, parts[_DENSE], like, file)
    return {"params": params}
