"""Properties of a config that several modules ask for."""

from typing import Any

from ml_collections import ConfigDict

from capjax.config.fields import part_of
from capjax.parts.check import fields_of

# Top-level names of a captioner's parameters.
PARTS = ("encoder", "adapter", "decoder")


def encoder_fields(config: ConfigDict) -> dict[str, Any]:
    """The encoder's name and the fields of its module."""
    training = fields_of(part_of(config, "encoder").training)
    return {name: value for name, value in config.encoder.items() if name not in training}


def is_pretrained(config: ConfigDict) -> bool:
    """True if the encoder starts from published weights."""
    return "weights" in config.encoder


def is_cached(config: ConfigDict) -> bool:
    """True if training reads cached features of the encoder."""
    return bool(config.encoder.get("cache", ""))


def has_lora(config: ConfigDict) -> bool:
    """True if low-rank adapters train; the config of a published captioner has no such section."""
    return bool("lora" in config and config.lora.rank)


def has_elementwise_optimizer(config: ConfigDict) -> bool:
    """True if the update of a number does not depend on the array that it is in."""
    return config.optimizer.kind == "adamw"


def is_frozen(config: ConfigDict) -> bool:
    """True if the encoder is pretrained and no part of it trains."""
    return is_pretrained(config) and not config.encoder.trainable


def init_parts(config: ConfigDict) -> tuple[str, ...]:
    """The parts of the model initialised from the run `init_from`; none without that run."""
    if not config.init_from:
        return ()
    if "all" not in config.init_parts:
        return config.init_parts
    return tuple(part for part in PARTS if part != "adapter" or "adapter" in config)


def decoder_weights(config: ConfigDict) -> str:
    """Source of the decoder's and tokenizer's published weights; "" if none or from a run."""
    return "" if "decoder" in init_parts(config) else config.decoder.get("weights", "")


def keeps_tokenizer(config: ConfigDict) -> bool:
    """True if the tokenizer is that of the run `init_from`."""
    return "decoder" in init_parts(config) and config.init_tokenizer


def encoder_stage(config: ConfigDict, stage: str) -> tuple[str, ...]:
    """Prefixes of the encoder's parts that an entry of `encoder.trainable` stands for."""
    return part_of(config, "encoder").stages.get(stage, (stage,))
