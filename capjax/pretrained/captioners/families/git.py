"""GIT of transformers (`GitForCausalLM`), base and large, for images."""

from typing import Any

from capjax.models.decoders.git import GitDecoder
from capjax.pretrained.captioners import bert, wordpiece
from capjax.pretrained.captioners.captioner import Fields
from capjax.pretrained.errors import ExportError, WeightsError, refusal
from capjax.pretrained.tables import TRANSPOSED, Row, dense, norm
from capjax.pretrained.vit import huggingface

# Those of transformers' GitConfig, since a published config.json may leave them out.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 1024,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 101,
    "eos_token_id": 102,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "pad"}
_PROJECTION = "git.visual_projection.visual_projection"
TABLE = (
    *bert.table("git."),
    *dense(f"{_PROJECTION}.0", "projection"),
    *norm(f"{_PROJECTION}.1", "projection_norm"),
    Row("output.weight", "output/kernel", TRANSPOSED),
    Row("output.bias", "bias"),
)


class Git(bert.BertFamily):
    """See `Family` for the methods."""

    decoder = GitDecoder
    decoder_name = "git"
    decoder_title = "GIT"
    fixed = {"norm": "post", "tie_embeddings": False, "use_output_bias": True}  # noqa: RUF012
    own_fields = ("projection_epsilon",)
    part_tables = {"decoder": (TABLE, "")}  # noqa: RUF012
    model_type = "git"
    architecture = "GitForCausalLM"
    encoder_prefix = "git.image_encoder.vision_model."
    encoder_types = ("git_vision_model",)
    processor = "GitProcessor"

    def read_fields(self, config, path):
        if config.get("num_image_with_embedding") is not None:
            raise WeightsError(
                f"{path}: num_image_with_embedding={config['num_image_with_embedding']} is of a "
                "GIT for videos, and captions are made of images; it must be null"
            )
        section = {**_DEFAULTS, **{name: v for name, v in config.items() if v is not None}}
        if section["tie_word_embeddings"] is not False:
            value = section["tie_word_embeddings"]
            raise refusal(path, "tie_word_embeddings", value, "false")
        encoder, _ = huggingface.read_config(config, path)
        # One epsilon for the vision tower and for the projection after it.
        epsilon = {"projection_epsilon": float(encoder["epsilon"])}
        return Fields(bert.read_fields(section, path) | epsilon)

    def read_tokenizer(self, folder, config, fields):
        return wordpiece.read_wordpiece(folder, fields.decoder["vocab_size"])

    def write_config(self, captioner, encoder):
        decoder, tokenizer = captioner.fields.decoder, captioner.tokenizer
        if decoder["projection_epsilon"] != encoder["layer_norm_eps"]:
            raise ExportError(
                f"config.decoder.projection_epsilon={decoder['projection_epsilon']} is not "
                f"config.encoder.epsilon={encoder['layer_norm_eps']}, and GIT's are one"
            )
        return {
            "tie_word_embeddings": False,
            **bert.write_fields(decoder),
            **{name: getattr(tokenizer, f"{role}_id") for name, role in _IDS.items()},
            "vision_config": encoder,
        }


PART = Git()
