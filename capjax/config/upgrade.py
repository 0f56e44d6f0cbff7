"""Adds this version's fields to configs that earlier versions saved."""

from collections.abc import Mapping
from typing import Any

# Fields added since, with the value that earlier runs were trained with.
_ADDED = {
    "objective": {"name": "cross_entropy"},
    "evaluation": {"metrics": ()},
}


def upgrade(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a saved config to this version's fields; a current one is unchanged.

    Raises:
      ValueError: a section is not a mapping.
    """
    config = dict(saved)
    for name, added in _ADDED.items():
        config[name] = {**added, **_section(config, name)}
    config["dataset"] = _dataset(_section(config, "dataset"))
    return config


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} is no section")
    return section


def _dataset(section: Mapping[str, Any]) -> dict[str, Any]:
    """Earlier configs named a TFDS dataset by its own name; now only "shapes" is."""
    is_named = "data_dir" in section and "tfds_name" not in section
    if not is_named or section.get("name") == "shapes":
        return dict(section)
    return {**section, "name": "tfds", "tfds_name": section.get("name")}
