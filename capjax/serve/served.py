"""A model behind the server: what the server needs of a run or of an artefact."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from capjax.data.images import decoded
from capjax.data.resize import Resize, Resizes, to_square
from capjax.evaluate.caption_view import seen_part
from capjax.files.errors import ReportedError

# (method, pixels uint8 [B, H, W, 3], index int32 [B]) -> a caption, or its error, for each index
# that is not -1. A sample depends on the index of its image. Each B is compiled at its first use.
Program = Callable[[Any, np.ndarray, np.ndarray], Sequence[Any]]

# Left, top, right and bottom of what the model sees, as fractions of the upright image.
Seen = list[float]

_METHODS = {"BeamSearch": "beam", "Sampling": "sample", "Consensus": "consensus"}


class SettingsError(ReportedError, ValueError):
    """Settings that a model can't be given by a client; the message says what would work."""


class ServedError(ReportedError):
    """A model gives an image no caption, or it can't be served; the message says why."""


class Served(Protocol):
    """A model whose methods are called by several threads.

    Attributes:
      name: by which clients ask for it.
      about: a line about it.
      parameters: their number.
      attends: whether its captions can have attention.
      shape: of an image's pixels.
    """

    name: str
    about: str
    parameters: int
    attends: bool
    shape: tuple[int, ...]

    def settings(self) -> list[dict[str, Any]]:
        """What a client may set: "name", "kind", "about", "least", "most" and "choices".

        A setting that not every method has says of which it is: "of".
        """

    def defaults(self) -> dict[str, Any]:
        """The model's own settings, for JSON."""

    def method(self, settings: Mapping[str, Any]) -> Hashable:
        """The decoding method with a client's settings.

        Raises:
          SettingsError: there is no such setting, or it is out of its range or its limit.
        """

    def described(self, method: Any) -> dict[str, Any]:
        """The settings of a method, for JSON."""

    def kind(self, method: Any) -> Hashable:
        """Methods of one kind share compiled programs."""

    def program(self, *, attention: bool) -> Program:
        """A program; what it has compiled is freed with it."""

    def sizes(self, most: int) -> list[int]:
        """The sizes of batches up to `most`, of which each is compiled."""

    def read(self, content: bytes, name: str) -> tuple[np.ndarray, Seen]:
        """The pixels of an encoded image, and what the model sees of it.

        Raises:
          capjax.data.images.ImageError: it can't be used.
        """


def is_own(served: Served, method: Hashable) -> bool:
    """Whether a method shares compiled programs with the model's own."""
    return served.kind(method) == served.kind(served.method({}))


def doubled(most: int, unit: int = 1) -> list[int]:
    """1, 2, 4 and so on times `unit`, and `most` rounded up to a multiple of it."""
    most += -most % unit
    sizes = []
    while unit < most:
        sizes.append(unit)
        unit *= 2
    return [*sizes, most]


def read_image(content: bytes, name: str, resize: Resize | Resizes) -> tuple[np.ndarray, Seen]:
    """`Served.read` of a model with such a resize."""
    with decoded(content, name=name) as picture:
        return to_square(picture, resize), seen_part(resize, *picture.size)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `capjax.evaluate.methods.settings_of` under the names that clients use."""
    found = {**settings, "method": _METHODS[settings["method"]]}
    found |= found.pop("control", {})
    if "candidates" in found:
        found["candidates"] = flat(found["candidates"])
    if "early_stopping" in found:
        found["early_stopping"] = str(found["early_stopping"]).lower()
    return {name: value for name, value in found.items() if value is not None}
