"""The shipped configs, by name, in a checkout and in an installed package.

In a checkout they are the folder `configs/`; an installed capjax holds them as `capjax/configs/`.
They are read like a user's config files, which say `from configs import base`.
"""

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from typing import Any

from ml_collections import ConfigDict

from capjax.files.text import nearest

_PACKAGE = "configs"


def folder() -> str:
    """The folder of the shipped configs."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for place in (package, os.path.dirname(package)):
        if os.path.isfile(os.path.join(place, _PACKAGE, "base.py")):
            return os.path.join(place, _PACKAGE)
    raise FileNotFoundError(f"{package}: this installation of capjax lacks its configs")


def files() -> list[str]:
    """All Python files of that folder: configs and the modules they import."""
    return sorted(name for name in os.listdir(folder()) if name.endswith(".py"))


def summaries() -> dict[str, str]:
    """The first line of each config's docstring, by name; imports none of them."""
    found = {}
    for name in files():
        with open(os.path.join(folder(), name), encoding="utf-8") as file:
            tree = ast.parse(file.read())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if "get_config" in functions:
            found[name.removesuffix(".py")] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def resolve(source: str) -> str:
    """Replaces a shipped config's name in a value of --config by the config's file.

    Args:
      source: FILE, FILE:ARGUMENT, NAME or NAME:ARGUMENT. An existing file is never a name.
    """
    name, colon, argument = source.partition(":")
    path = os.path.join(folder(), f"{name}.py")
    if not name.isidentifier() or os.path.isfile(name) or not os.path.isfile(path):
        return source
    return f"{path}{colon}{argument}"


def make_importable(file: str) -> None:
    """Makes `from configs import base` work in a config file.

    `configs` is searched in the file's own folder if it has that name, then on Python's path, then
    among the shipped configs. A shipped file finds the shipped configs first.
    """
    here = os.path.dirname(os.path.abspath(file))
    places = [here] if os.path.basename(here) == _PACKAGE else []
    module: Any = sys.modules.get(_PACKAGE)
    if module is None and here != folder() and importlib.util.find_spec(_PACKAGE):
        module = importlib.import_module(_PACKAGE)
    if module is None:
        spec = importlib.machinery.ModuleSpec(_PACKAGE, None, is_package=True)
        module = sys.modules[_PACKAGE] = importlib.util.module_from_spec(spec)
    if hasattr(module, "__path__"):  # A user's configs.py is no package and stays unchanged.
        module.__path__ = list(dict.fromkeys([*places, *module.__path__, folder()]))


def get_config(source: str) -> ConfigDict:
    """Loads a shipped config, like `--config` on the command line.

    Args:
      source: its name, for example "shapes_transformer", or NAME:ARGUMENT.

    Raises:
      ValueError: there is no such config, or it does not take the argument.
    """
    name, colon, argument = source.partition(":")
    if name not in summaries():
        raise ValueError(f"capjax ships no config {name!r}; {nearest(name, summaries())}")
    # Another module named `configs` stays in sys.modules.
    taken = {key: sys.modules.pop(key) for key in _modules()}
    try:
        make_importable(os.path.join(folder(), f"{name}.py"))
        module = importlib.import_module(f"{_PACKAGE}.{name}")
        return module.get_config(*([argument] if colon else []))
    finally:
        for key in _modules():
            del sys.modules[key]
        sys.modules.update(taken)


def _modules() -> list[str]:
    return [key for key in sys.modules if key.partition(".")[0] == _PACKAGE]
