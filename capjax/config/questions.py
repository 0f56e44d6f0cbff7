"""Questions asked of a config."""

from typing import Any

from ml_collections import ConfigDict

from capjax.config.fields import part_of
from capjax.parts.check import fields_of

# The names that the parameters of a captioner begin with.
PARTS = ("encoder", "adapter", "decoder")


def encoder_fields(config: ConfigDict) -> dict[str, Any]:
    """The encoder's name and the fields of its module."""
    training = fields_of(part_of(config, "encoder").training)
    return {name: value for name, value in config.encoder.items() if name not in training}


def is_pretrained(config: ConfigDict) -> bool:
    """Whether the encoder starts from published weights."""
    return "weights" in config.encoder


def is_cached(config: ConfigDict) -> bool:
    """Whether training reads the encoder's features, computed once."""
    return bool(config.encoder.get("cache", ""))


def is_frozen(config: ConfigDict) -> bool:
    """Whether training leaves the encoder as it is."""
    return is_pretrained(config) and not config.encoder.trainable


def init_parts(config: ConfigDict) -> tuple[str, ...]:
    """The parts of the model whose parameters come from the run `init_from`; none without one."""
    if not config.init_from:
        return ()
    if "all" not in config.init_parts:
        return config.init_parts
    return tuple(part for part in PARTS if part != "adapter" or "adapter" in config)


def decoder_weights(config: ConfigDict) -> str:
    """The published weights that decoder and tokenizer start from; "" without, or with a run's."""
    return "" if "decoder" in init_parts(config) else config.decoder.get("weights", "")


def keeps_tokenizer(config: ConfigDict) -> bool:
    """Whether the tokenizer is that of the run `init_from`, whose decoder knows no other words."""
    return "decoder" in init_parts(config) and config.init_tokenizer


def encoder_stage(config: ConfigDict, stage: str) -> tuple[str, ...]:
    """The beginnings of the names of the parts that one of `encoder.trainable` means."""
    return part_of(config, "encoder").stages.get(stage, (stage,))
