"""Checks each field of a config against its type; `checks` compares fields with each other.

A section with a `name` has the fields of the part of that name. Any other section has the fields of
its dataclass or function in `_OWNERS`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from capjax.config import sections
from capjax.config.errors import ConfigError
from capjax.data import tokenizer_kinds
from capjax.data.dataset import CommonFields
from capjax.files.text import first_few, nearest
from capjax.models.adapter import Adapter
from capjax.parts import DATASETS, DECODERS, ENCODERS, OBJECTIVES
from capjax.parts.check import Field, fault, fields_of
from capjax.parts.registry import PartError
from capjax.parts.types import Name
from capjax.train.early_stopping import EarlyStopping
from capjax.train.optimizer_fields import Optimizer
from capjax.train.scheduled_sampling import own_words_schedule

# The dataclass or function that types a section's fields; "" is the fields outside of sections.
_OWNERS = {
    "": sections.RunFields,
    "tokenizer": tokenizer_kinds.train,
    "word_vectors": sections.WordVectorFields,
    "lora": sections.LoraFields,
    "hard_attention": sections.HardAttentionFields,
    "scheduled_sampling": own_words_schedule,
    "optimizer": Optimizer,
    "early_stopping": EarlyStopping,
    "evaluation": sections.EvaluationFields,
    "decoding": sections.DecodingFields,
}
# Sections that name a part.
PARTS = {"dataset": DATASETS, "encoder": ENCODERS, "decoder": DECODERS, "objective": OBJECTIVES}
_WHOLE = "a config must have all fields of configs/base.py"


def check_fields(config: ConfigDict) -> None:
    """Raises ConfigError, naming the field, where one is missing, unknown or not of its type."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{_WHOLE}, and this one is {_show(config)}")
    given = dict(_leaves(config))
    for name in sorted(given):
        if name in _sections():
            raise ConfigError(f"config.{name}={_show(given[name])} must be a section of fields")
    known = _fields(config)
    _check_types(given, known)
    for name in sorted(given.keys() - known.keys()):
        section, _, field = name.partition(".")
        if section in PARTS:
            own = [other for other in known if other.startswith(f"{section}.")]
            raise ConfigError(
                f"config.{section} with name {config[section].get('name')!r} has no {field}; "
                f"{nearest(name, own)}"
            )
        raise ConfigError(f"config.{name}: there is no such field; {nearest(name, known)}")
    missing = sorted(name for name in known.keys() - given.keys() if known[name].required)
    if missing:
        raise ConfigError(f"{_WHOLE}; this one lacks {first_few(missing)}")


def check_values(config: ConfigDict) -> None:
    """Raises ConfigError for a field of a saved config that is not of its type.

    Other than in `check_fields`, fields may lack, as in configs of earlier versions, and so may
    parts, such as the dataset of a captioner.
    """
    found = [section for section in PARTS if section in config and _has_part(config, section)]
    rest = {name: value for name, value in config.items() if name not in PARTS or name in found}
    _check_types(dict(_leaves(config)), _fields(ConfigDict(rest)))


def _has_part(config: ConfigDict, section: str) -> bool:
    try:
        part_of(config, section)
    except ConfigError:
        return False
    return True


def _check_types(given: Mapping[str, Any], known: Mapping[str, Field]) -> None:
    for name in sorted(given.keys() & known.keys()):
        if message := fault(known[name].type, given[name]):
            raise ConfigError(f"config.{name}={_show(given[name])} {message}")


def part_of(config: ConfigDict, section: str) -> Any:
    """The part that a section names.

    Raises:
      ConfigError: there is no such part, or the name is not text.
    """
    name = config[section].get("name")
    if message := fault(Name, name):
        raise ConfigError(f"config.{section}.name={_show(name)} {message}")
    try:
        return PARTS[section].get(name)
    except PartError as error:
        raise ConfigError(f"config.{section}.name={name!r}: {error}") from error


def part_fields(config: ConfigDict, section: str) -> Mapping[str, Field]:
    """The fields of a section that names a part, without the name."""
    part = part_of(config, section)
    found = fields_of(part)
    if section == "dataset":
        return {**fields_of(CommonFields), **{n: Field(f.type, True) for n, f in found.items()}}
    if training := getattr(part, "training", None):
        return {**found, **fields_of(training)}
    return found


def _sections() -> set[str]:
    return {*_OWNERS, *PARTS, "adapter"} - {""}


def _fields(config: ConfigDict) -> Mapping[str, Field]:
    """All fields that the config can have, by dotted name."""
    owned = {section: fields_of(owner) for section, owner in _OWNERS.items()}
    for section in PARTS:
        name = {"name": Field(Name, True)}
        owned[section] = name | (part_fields(config, section) if section in config else {})
    if "adapter" in config:
        owned["adapter"] = fields_of(Adapter)
    # Defaults of functions are for callers in Python; a config must have every field.
    always = {*_OWNERS} - {""}
    return {
        f"{section}.{name}" if section else name: Field(
            field.type, field.required or section in always
        )
        for section, fields in owned.items()
        for name, field in fields.items()
    }


def _show(value: Any) -> str:
    """A value on one short line."""
    text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _leaves(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """Every field by dotted name; an unknown section counts as a field."""
    for name, value in config.items():
        if name in _sections() and isinstance(value, ConfigDict):
            yield from ((f"{name}.{field}", leaf) for field, leaf in value.items())
        else:
            yield name, value
