"""A source of captioned images: random access by index."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class Example(NamedTuple):
    """One captioned image.

    Attributes:
      image: the encoded file (JPEG, PNG, ...) as bytes, or its path.
      image_id: unique in its source.
      captions: the raw captions, in the source's order; empty where there are none.
    """

    image: bytes | str
    image_id: str
    captions: tuple[str, ...]


class Source(Protocol):
    """The interface of one split of a dataset.

    Attributes:
      name: dataset and split for messages, e.g. "shapes/validation".
      fingerprint: hex digest of the content, the key of everything derived from the source.
      selection: record of a draw from a larger dataset, JSON values; {} where nothing was drawn.
    """

    name: str
    fingerprint: str
    selection: Mapping[str, Any]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...
