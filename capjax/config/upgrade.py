"""Adds this version's fields to configs that earlier versions made."""

from collections.abc import Mapping
from typing import Any

from capjax.files.text import dotted

# Fields that configs have had for a while only, with the values that make them what they were.
_ADDED: dict[str, dict[str, Any]] = {
    "objective": {"name": "cross_entropy"},
    "tokenizer": {"kind": "words"},
    "evaluation": {"metrics": ()},
    "optimizer": {"kind": "adamw", "matrix_learning_rate": 0.02, "epsilon": 1e-8},
    "decoding": {
        "method": "beam",
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "seed": 0,
        "num_captions": 1,
        "length_normalization": "power",
        "num_beam_groups": 1,
        "diversity_penalty": 0.0,
        "must_include": (),
        "typical_p": 1.0,
        "candidates": "sample",
        "num_samples": 20,
        "rewards": ("cider_d",),
        "reward_weights": (1.0,),
        "prompt": "",
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_length": 0,
        "min_new_tokens": 0,
        "bad_words": (),
        "suppress": (),
        "suppress_first": (),
        "forced_first": "",
        "forced_last": "",
        "bad_endings": (),
        "allowed": (),
    },
}
# The same for fields outside of sections, and for sections of earlier versions' whole configs.
_ADDED_FIELDS: dict[str, Any] = {
    "wandb_project": "",
    "fused_attention": True,
    "prompt": "",
    "lora": {
        "rank": 0,
        "alpha": 16.0,
        "dropout": 0.0,
        "projections": ("query", "value"),
        "weights": "",
    },
}
# The same for sections of the part of one name.
_ADDED_TO_PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "decoder": {"transformer": {"epsilon": 1e-6, "feed_forward_dropout": 0.0}},
    "encoder": {"conv": {"contrast": False}},
}


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a config to this version's fields; one that has them is unchanged.

    Raises:
      ValueError: a section is not a mapping.
    """
    before_objectives = "objective" not in config
    config = dict(config)
    for name, added in _ADDED.items():
        if before_objectives or name in config:
            config[name] = {**added, **_section(config, name)}
    for name, parts in _ADDED_TO_PARTS.items():
        if name in config:
            section = _section(config, name)
            config[name] = {**parts.get(str(section.get("name")), {}), **section}
    if "decoding" in config:
        config["decoding"] = upgrade_decoding(_section(config, "decoding"))
    if "num_steps" in config:  # A whole config.
        config = {**_ADDED_FIELDS, **config}
    if before_objectives:
        config["dataset"] = _dataset(_section(config, "dataset"))
    return config


def upgrade_decoding(section: Mapping[str, Any]) -> dict[str, Any]:
    """Adds this version's fields to the decoding section of a config or of an evaluation."""
    fields = {**_ADDED["decoding"], **section}
    if fields["method"] == "beam search":  # In records of earlier versions.
        fields["method"] = "beam"
    if "reward" in fields:  # Of versions without sums.
        fields["rewards"] = (fields.pop("reward"),)
    return fields


def upgrade_flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Converts the fields of a config by dotted name, as `upgrade` does."""
    config: dict[str, Any] = {}
    for name, value in fields.items():
        section, _, field = name.rpartition(".")
        (config.setdefault(section, {}) if section else config)[field] = value
    return dotted(upgrade(config))


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} is no section")
    return section


def _dataset(section: Mapping[str, Any]) -> dict[str, Any]:
    """Earlier configs named a TFDS dataset by its own name; now only "shapes" is."""
    if "data_dir" not in section or section.get("name") == "shapes":
        return dict(section)
    return {**section, "name": "tfds", "tfds_name": section.get("name")}
