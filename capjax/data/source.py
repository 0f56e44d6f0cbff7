"""A source of captioned images: random access and nothing more."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class Example(NamedTuple):
    """One captioned image.

    Attributes:
      image: the encoded file (JPEG, PNG, ...) as bytes, or the path where it lies.
      image_id: unique in its source.
      captions: the raw captions, in the source's order; may be empty.
    """

    image: bytes | str
    image_id: str
    captions: tuple[str, ...]


class Source(Protocol):
    """What every dataset looks like to the rest of capjax.

    Attributes:
      name: says dataset and split to a person, e.g. "shapes/validation".
      fingerprint: hex digest of the content; whatever is derived from a source is keyed by it.
      selection: what was drawn from a larger dataset, JSON values; {} where nothing was.
    """

    name: str
    fingerprint: str
    selection: Mapping[str, Any]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
