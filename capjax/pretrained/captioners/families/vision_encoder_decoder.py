"""VisionEncoderDecoder of transformers: a ViT with a GPT-2, and a projection between their widths.

GPT-2's "<|endoftext|>" starts, ends and pads a caption, or other tokens are there for that.
"""

import jax
import numpy as np

from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.pretrained import tables
from capjax.pretrained.captioners import gpt2, gpt2_tokenizer
from capjax.pretrained.captioners.captioner import Family, Fields
from capjax.pretrained.captioners.generation_file import write_generation
from capjax.pretrained.captioners.projection import PROJECTION
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.vit import huggingface

_DENSE = "enc_to_dec_proj"
_ADAPTER = tables.dense(_DENSE, "projection")


class VisionEncoderDecoder(Family):
    """See `Family` for the methods."""

    decoder = GPT2Decoder
    decoder_name = "gpt2"
    decoder_title = "GPT-2"
    fixed = {"norm": "pre", "tie_embeddings": True, "use_output_bias": False}  # noqa: RUF012
    part_tables = {  # noqa: RUF012
        "decoder": (gpt2.TABLE, "decoder.transformer."),
        "adapter": (_ADAPTER, ""),
    }
    projects = True
    model_type = "vision-encoder-decoder"
    architecture = "VisionEncoderDecoderModel"
    encoder_prefix = "encoder."
    encoder_types = huggingface.ALONE

    def read_fields(self, config, path):
        encoder, _ = huggingface.read_config(config, path)
        section = config.get("decoder") or {}
        fields, cross = gpt2.read_config(section, path)
        if not cross:
            raise WeightsError(
                f"{path}: the decoder's add_cross_attention=false is not supported; it must be true"
            )
        if encoder["width"] == fields["width"]:
            return Fields(fields)
        # transformers leaves the projection out where this is given, and its GPT-2 can't do
        # without.
        if section.get("cross_attention_hidden_size") is not None:
            raise WeightsError(
                f"{path}: the decoder's cross_attention_hidden_size="
                f"{section['cross_attention_hidden_size']} is not supported; it must be null"
            )
        return Fields(fields, {"width": fields["width"], **PROJECTION})

    def read_tokenizer(self, folder, config, fields):
        return gpt2_tokenizer.read_tokenizer(folder)

    def to_params(self, tensors, fields, encoder_width, path):
        parts: dict[str, dict[str, np.ndarray]] = {"decoder": {}, _DENSE: {}}
        for name, array in tensors.items():
            part = name.partition(".")[0]
            if part not in parts:
                raise WeightsError(
                    f"{path}: has {name} {list(array.shape)}, and may have encoder, "
                    f"{', '.join(parts)}"
                )
            parts[part][name] = array
        params = {"decoder": gpt2.to_params(parts["decoder"], fields.decoder, path, cross=True)}
        like = {}
        if fields.adapter is not None:
            shapes = (encoder_width, fields.adapter["width"]), (fields.adapter["width"],)
            kernel, bias = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
            like = {"projection": {"kernel": kernel, "bias": bias}}
        adapter = tables.read(_ADAPTER, parts[_DENSE], like, path)
        return params | ({"adapter": adapter} if adapter else {})

    def write_config(self, captioner, encoder):
        generation = write_generation(captioner.generation, captioner.tokenizer)
        ids = {name: value for name, value in generation.items() if name.endswith("_token_id")}
        own = {name: value for name, value in ids.items() if name != "decoder_start_token_id"}
        return {
            "is_encoder_decoder": True,
            # Of the two parts, which have no weights in common; the decoder's own are.
            "tie_word_embeddings": False,
            **ids,
            "encoder": encoder,
            "decoder": {**gpt2.write_config(captioner.fields.decoder), **own},
        }

    def write_tokenizer(self, tokenizer, folder, max_length):
        return gpt2_tokenizer.write_tokenizer(tokenizer, folder, max_length)


PART = VisionEncoderDecoder()
