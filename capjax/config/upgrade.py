"""Configs that earlier versions of capjax saved, with the fields of this one."""

from collections.abc import Mapping
from typing import Any

# Fields that were added since, with the value that a run from before them had.
_ADDED = {
    "objective": {"name": "cross_entropy"},
    "evaluation": {"metrics": ()},
}


def upgrade(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config as this version writes it; one that this version wrote comes back as it is.

    Raises:
      ValueError: a section is none.
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
    """A dataset of TFDS was once named by its own name; only "shapes" still is."""
    is_named = "data_dir" in section and "tfds_name" not in section
    if not is_named or section.get("name") == "shapes":
        return dict(section)
    return {**section, "name": "tfds", "tfds_name": section.get("name")}
