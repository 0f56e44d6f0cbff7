"""Types of config fields, written where a field lives: `width: Count`, `dropout: DropoutRate`.

A field's type defines its valid values; `check.fault` checks them. A `Literal` lists choices.
"""

import dataclasses
import math
from typing import Annotated, TypeVar

T = TypeVar("T")

# Larger counts are mistakes, and do not fit int32.
MOST = 2**31 - 1
# Larger numbers are infinite as float32.
LARGEST = 3e38
# Largest side of an image in pixels.
LARGEST_SIDE = 8192


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, inclusive, without NaN.

    Attributes:
      least: the smallest number.
      most: the largest number.
      text: follows "must" in messages: "be 1 or more".
    """

    least: float
    most: float
    text: str


@dataclasses.dataclass(frozen=True)
class ZeroOr(Range):
    """0 and the numbers of a range."""


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Valid lengths of a tuple.

    Attributes:
      least: the smallest length.
      most: the largest length.
      text: follows "must be a tuple of" in messages: "three numbers".
    """

    least: int
    most: int
    text: str


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """Marks a text that must not be empty."""


@dataclasses.dataclass(frozen=True)
class BuilderField:
    """Marks a field that the building code sets and configs do not have."""


# Written as `vocab_size: Given[int]`.
Given = Annotated[T, BuilderField()]


def whole(least: int, most: int = MOST) -> Range:
    """The range of whole numbers from `least` to `most`."""
    return Range(least, most, f"be {least} or more" if most == MOST else f"be {least} to {most}")


Count = Annotated[int, whole(1)]
CountOrZero = Annotated[int, whole(0)]
Length = Annotated[int, whole(2)]
# A number of layers or blocks; limited, since each is compiled.
Depth = Annotated[int, whole(1, 1000)]
DepthOrZero = Annotated[int, whole(0, 1000)]
# Of a layer; a matrix of the largest has 16 GiB.
Width = Annotated[int, whole(1, 65_536)]
# Threads of a process.
Threads = Annotated[int, whole(1, 1024)]
# Images of a step; the largest batches of the literature have 65,536.
BatchSize = Annotated[int, whole(1, 65_536)]
Side = Annotated[int, whole(1, LARGEST_SIDE)]
SideOrZero = Annotated[int, whole(0, LARGEST_SIDE)]
Seed = Annotated[int, whole(0, 2**32 - 1)]
Finite = Annotated[float, Range(-LARGEST, LARGEST, "be a finite number")]
Positive = Annotated[float, Range(math.ulp(0.0), LARGEST, "be above 0, and finite")]
NotNegative = Annotated[float, Range(0.0, LARGEST, "be 0 or more, and finite")]
Share = Annotated[float, Range(0.0, 1.0, "lie in 0 to 1")]
PositiveShare = Annotated[float, Range(math.ulp(0.0), 1.0, "be above 0 and at most 1")]
OpenShare = Annotated[
    float, Range(math.ulp(0.0), math.nextafter(1.0, 0.0), "be above 0 and below 1")
]
# A rate of smoothing or averaging; 1 would leave nothing.
Rate = Annotated[float, Range(0.0, math.nextafter(1.0, 0.0), "be 0 or more, and below 1")]
# A rate of `capjax.models.layers.Dropout`, which draws 256ths.
DropoutRate = Annotated[
    float, ZeroOr(1 / 256, 255 / 256, "be 0, or lie in 1/256 (0.00390625) to 255/256 (0.99609375)")
]
Name = Annotated[str, NotEmpty()]
Names = Annotated[tuple[Name, ...], Lengths(0, 1000, "names")]
# Rewards that are summed, and the weight of each.
RewardNames = Annotated[tuple[Name, ...], Lengths(1, 99, "names")]
RewardWeights = Annotated[tuple[Finite, ...], Lengths(1, 99, "numbers")]
