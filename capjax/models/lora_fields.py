"""The fields of low-rank adapters, apart from `lora`: configs import without JAX."""

import dataclasses
from typing import Annotated

from capjax.parts.types import DropoutRate, Names, Positive, whole


@dataclasses.dataclass(frozen=True)
class Lora:
    """The adapters of a captioner.

    Attributes:
      rank: of A and B.
      alpha: A B is multiplied by alpha / rank.
      dropout: rate on the input of an adapter in training.
      projections: names of those that are adapted: "query", "key", "value" and "out" of attention,
        "up" and "down" of feed-forward blocks, or any other dense layer; in all parts of the
        captioner, or in one, as "decoder/query".
    """

    rank: Annotated[int, whole(0, 65_536)]
    alpha: Positive
    dropout: DropoutRate
    projections: Names

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / self.rank

    def adapts(self, part: str) -> bool:
        """True if projections of a part, "encoder", are adapted, if it has them."""
        return any(name.partition("/")[0] == part or "/" not in name for name in self.projections)
