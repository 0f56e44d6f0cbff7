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

    A source whose fingerprint follows another rule than in earlier versions also has
    `former_fingerprint`, by that rule.

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


def fingerprints(source: Source) -> tuple[str, ...]:
    """The fingerprints of a source that records of it may have: today's, and the former one."""
    former = getattr(source, "former_fingerprint", source.fingerprint)
    return tuple(dict.fromkeys((source.fingerprint, former)))
