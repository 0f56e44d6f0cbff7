"""BLIP of transformers (`BlipForConditionalGeneration`), base and large, as a captioner."""

from typing import Any

from capjax.models.decoders.blip import BlipDecoder
from capjax.pretrained.captioners import bert, wordpiece
from capjax.pretrained.captioners.captioner import Fields
from capjax.pretrained.captioners.generation_file import read_generation
from capjax.pretrained.errors import WeightsError, refusal
from capjax.pretrained.tables import Row, dense, norm

# Those of transformers' BlipTextConfig, since a published config.json may leave them out.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "bos_token_id": 30522,
    "pad_token_id": 0,
    "sep_token_id": 102,
    "tie_word_embeddings": True,
    "is_decoder": True,
    "label_smoothing": 0.0,
}
# What `BlipDecoder` can't be otherwise.
_FIXED = ("tie_word_embeddings", "is_decoder")
# The section's ids, by what they are to a tokenizer. Its eos_token_id ends nothing.
_IDS = {"bos_token_id": "bos", "sep_token_id": "eos", "pad_token_id": "pad"}
_OWN_TOKENS = ("[DEC]", "[ENC]")
_PREFIX = "text_decoder."
_HEAD = f"{_PREFIX}cls.predictions"
TABLE = (
    *bert.table(f"{_PREFIX}bert."),
    *dense(f"{_HEAD}.transform.dense", "head"),
    *norm(f"{_HEAD}.transform.LayerNorm", "head_norm"),
    Row(f"{_HEAD}.bias", "bias"),
)
_TIED = {
    f"{_HEAD}.decoder.weight": f"{_PREFIX}bert.embeddings.word_embeddings.weight",
    f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
}


class Blip(bert.BertFamily):
    """See `Family` for the methods."""

    decoder = BlipDecoder
    decoder_name = "blip"
    decoder_title = "BLIP"
    fixed = {"norm": "post", "tie_embeddings": True, "use_output_bias": True}  # noqa: RUF012
    part_tables = {"decoder": (TABLE, "")}  # noqa: RUF012
    tied = _TIED
    model_type = "blip"
    architecture = "BlipForConditionalGeneration"
    encoder_prefix = "vision_model."
    encoder_types = ("blip_vision_model",)
    reads_settings = False
    processor = "BlipProcessor"
    resizer = "Blip"

    def read_fields(self, config, path):
        kinds = config.get("architectures") or [self.architecture]
        if kinds != [self.architecture]:
            raise WeightsError(
                f"{path}: is a BLIP for another task, {', '.join(map(str, kinds))}, and captions "
                f"are made by {self.architecture}"
            )
        section = _section(config)
        for name in _FIXED:
            if section[name] is not True:
                raise refusal(path, name, section[name], "true")
        smoothing = section["label_smoothing"]
        if type(smoothing) not in (int, float) or not 0 <= smoothing < 1:
            raise refusal(path, "label_smoothing", smoothing, "0 or more and below 1")
        return Fields(bert.read_fields(section, path), label_smoothing=float(smoothing))

    def read_tokenizer(self, folder, config, fields):
        tokenizer = wordpiece.read_wordpiece(folder, fields.decoder["vocab_size"], _OWN_TOKENS)
        section = _section(config)
        for name, role in _IDS.items():
            if section[name] != (token := getattr(tokenizer, f"{role}_id")):
                path, word = f"{folder}/config.json", tokenizer.word(token)
                raise refusal(path, name, section[name], f"{token}, the tokenizer's {word}")
        return tokenizer

    def read_generation(self, folder, config, tokenizer):
        # transformers' captioner itself takes no settings from files: they are given to `generate`.
        return read_generation(folder, tokenizer, ids=False)

    def write_config(self, captioner, encoder):
        tokenizer = captioner.tokenizer
        return {
            "tie_word_embeddings": True,
            "vision_config": encoder,
            "text_config": {
                "model_type": "blip_text_model",
                **bert.write_fields(captioner.fields.decoder),
                "encoder_hidden_size": encoder["hidden_size"],
                "is_decoder": True,
                "tie_word_embeddings": True,
                "label_smoothing": captioner.fields.label_smoothing or 0.0,
                **{name: getattr(tokenizer, f"{role}_id") for name, role in _IDS.items()},
            },
        }


def _section(config) -> dict[str, Any]:
    given = config.get("text_config") or {}
    return {**_DEFAULTS, **{name: value for name, value in given.items() if value is not None}}


PART = Blip()
