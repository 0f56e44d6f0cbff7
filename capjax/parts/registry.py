"""Registries of parts by name: capjax's own, one file each, and those a user registers."""

import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
from typing import Any

from capjax.files.errors import ReportedError


class PartError(ReportedError, ValueError):
    """A part that does not exist or can't be registered; the message says what would work."""


class Registry:
    """The parts of one kind.

    A part of capjax is a file `FOLDER/NAME.py` that defines `PART`; adding the file registers it.
    A user's part is registered by `register`, called in a config file or a user's module, or by an
    entry point `capjax.KINDs` of an installed package. No name read from a workdir or a weights
    file is ever imported.

    Attributes:
      kind: "decoder", "encoder", "captioner", "dataset", "objective", "metric" or "reward".
    """

    def __init__(self, kind: str, folder: str | None = None, hint: str = ""):
        """Finds capjax's own parts in the package `folder`; None if there are none.

        `hint` is appended to the error about an unknown part.
        """
        self.kind = kind
        self._hint = hint
        self._folder = folder
        self._registered: dict[str, Any] = {}

    def register(self, name: str, part: Any) -> Any:
        """Adds a user's part, and returns it.

        Args:
          name: its name in configs.
          part: the class or function; or "module:attribute", imported at its first use, so that a
            config file need not import JAX.

        Raises:
          PartError: capjax has a part of this name.
        """
        if name in self._own:
            raise PartError(f"capjax has a {self.kind} {name!r} already: give yours another name")
        self._registered[name] = part
        return part

    def names(self) -> list[str]:
        """Names of all parts, sorted; imports no part."""
        return sorted({*self._own, *self._registered, *self._entry_points()})

    def get(self, name: str) -> Any:
        """Returns the part of a name.

        Raises:
          PartError: there is none; the message lists the known names.
        """
        if name in self._registered:
            part = self._registered[name]
            if isinstance(part, str):
                part = self._registered[name] = self._import(name, part)
            return part
        if name in self._own:
            return importlib.import_module(f"{self._folder}.{name}").PART
        if place := self._entry_points().get(name):
            return self.register(name, self._import(name, place))
        raise PartError(
            f"there is no {self.kind} {name!r}; there are {', '.join(self.names()) or 'none'}. "
            f"Your own must be imported first: --parts FILE_OR_MODULE on the command line, "
            f"`import` in Python (docs/extending.md){self._hint}"
        )

    @functools.cached_property
    def _own(self) -> frozenset[str]:
        # Without an import, because the folder's package may need JAX.
        spec = importlib.util.find_spec(self._folder) if self._folder else None
        if spec is None:
            return frozenset()
        found = pkgutil.iter_modules(spec.submodule_search_locations)
        names = (module.name for module in found)
        return frozenset(name for name in names if not name.startswith("_"))

    def _import(self, name: str, place: str) -> Any:
        """Imports the part "module:attribute"."""
        module, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise PartError(
                f"the {self.kind} {name!r} is registered as {place!r}, which can't be imported: "
                f"{error}"
            ) from error

    def _entry_points(self) -> dict[str, str]:
        points = importlib.metadata.entry_points(group=f"capjax.{self.kind}s")
        return {point.name: point.value for point in points}
