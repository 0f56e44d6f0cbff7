"""Scenes of the `shapes` dataset: a few things on a plain background, generated from an image id.

Coordinates are pixels of a SIZE x SIZE image, x to the right and y downwards. All random choices
use `Generator.random()` of a PCG64 seeded by (seed, split, index, stream), and all numbers are
multiples of 1/64, so that a scene is the same on every machine and NumPy version.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

SIZE = 64
SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
SPLITS = ("train", "validation", "test", "heldout")
MAX_THINGS = 4

HELDOUT_PAIRS = frozenset(
    {
        ("red", "star"),
        ("green", "circle"),
        ("blue", "cross"),
        ("yellow", "triangle"),
        ("striped", "square"),
        ("dotted", "triangle"),
    }
)
"""(colour or texture, shape) pairs that only the heldout split has."""

_RADIUS = {"small": 7.5, "large": 12.5}  # pixels, +- _RADIUS_JITTER
_RADIUS_JITTER = 0.5
_GAP = 2.5  # pixels between the discs of two things
_MARGIN = 1.0  # pixels between a disc and the border
_TILT = 0.08  # |tan(angle / 2)|: about 9 degrees
_BACKGROUND = (185, 240)  # grey levels
_CLEAR = 1.5  # a relation is clear where one offset is this many times the other

Relation = Literal["left", "right", "above", "below"]
T = TypeVar("T")


class Thing(NamedTuple):
    """One object of a scene.

    Attributes:
      shape: one of SHAPES.
      colour: one of COLOURS.
      size: one of SIZES.
      texture: one of TEXTURES.
      x: centre, pixels from the left border.
      y: centre, pixels from the top border.
      radius: pixels, of the disc around its centre that contains the thing.
      tilt: tan(angle / 2) of its rotation, which gives sine and cosine without trigonometry.
    """

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    tilt: float


class Scene(NamedTuple):
    """The content of an image.

    Attributes:
      things: two to four, from left to right; no two have the same colour and shape.
      background: grey level, 0 to 255.
    """

    things: tuple[Thing, ...]
    background: int


def rng_of(seed: int, split: str, index: int, stream: int) -> np.random.Generator:
    """The random generator of one image; `stream` is 0 for the scene and 1 for the captions."""
    if split not in SPLITS:
        raise ValueError(f"shapes has no split {split!r}; its splits are {', '.join(SPLITS)}")
    entropy = [seed, SPLITS.index(split), index, stream]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def choose(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] = ()) -> T:
    """Draws one of `options`, uniformly or by `weights`, by a single `rng.random()`.

    Not `Generator.choice`, whose stream can change with NumPy's version.
    """
    weights = weights or [1.0] * len(options)
    left = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        left -= weight
        if left < 0:
            return option
    return options[-1]


def image_id(split: str, index: int, seed: int = 0) -> str:
    """The id of an image, such as "shapes-0-validation-000123"."""
    return f"shapes-{seed}-{split}-{index:06d}"


def parse_image_id(image_id: str) -> tuple[str, int, int]:
    """(split, index, seed) of an image id; ValueError for an id not of `shapes`."""
    match = re.fullmatch(r"shapes-(\d+)-([a-z]+)-(\d{6,})", image_id)
    if match is None or match[2] not in SPLITS:
        raise ValueError(
            f"{image_id!r} is not an image id of shapes, such as 'shapes-0-validation-000123' "
            f"with a split of {', '.join(SPLITS)}"
        )
    return match[2], int(match[3]), int(match[1])


def scene_of(image_id: str) -> Scene:
    """The scene of an image, generated from its id; ValueError for an id not of `shapes`."""
    return sample_scene(*parse_image_id(image_id))


@functools.lru_cache(maxsize=4096)  # Drawing, captions and metrics each ask for it.
def sample_scene(split: str, index: int, seed: int = 0) -> Scene:
    """The scene at `index` of a split: a pure function of its arguments.

    It has two to four things, which touch neither each other nor the border, with at least one pair
    in a clear relation. A heldout scene has one of HELDOUT_PAIRS, scenes of other splits have none.

    Raises:
      ValueError: there is no such split.
    """
    rng = rng_of(seed, split, index, stream=0)
    count = choose(rng, (2, 3, 4))
    looks: list[tuple[str, str, str, str]] = []
    while len(looks) < count:
        look = _sample_look(rng, novel=split == "heldout" and not looks)
        if look[:2] not in [other[:2] for other in looks]:
            looks.append(look)
    while True:
        radii = [
            _grid(_RADIUS[size] + _RADIUS_JITTER * (2 * rng.random() - 1))
            for _, _, size, _ in looks
        ]
        centres = _sample_centres(rng, radii)
        things = [
            Thing(*look, x, y, radius, _grid(_TILT * (2 * rng.random() - 1)))
            for look, (x, y), radius in zip(looks, centres, radii, strict=True)
        ]
        things.sort(key=lambda thing: thing.x)
        if any(is_clear(a, b) for a, b in itertools.combinations(things, 2)):
            low, high = _BACKGROUND
            return Scene(tuple(things), low + int(rng.random() * (high - low + 1)))


def relation(a: Thing, b: Thing) -> Relation:
    """Direction from `b` to `a`, that of the larger offset between the centres.

    Exactly one of the four directions is true of a pair.
    """
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def is_clear(a: Thing, b: Thing) -> bool:
    """True where `relation(a, b)` is unambiguous; captions have only clear relations."""
    small, large = sorted((abs(a.x - b.x), abs(a.y - b.y)))
    return large >= _CLEAR * small


def _novel(shape: str, colour: str, texture: str) -> bool:
    return (colour, shape) in HELDOUT_PAIRS or (texture, shape) in HELDOUT_PAIRS


def _sample_look(rng: np.random.Generator, novel: bool) -> tuple[str, str, str, str]:
    """Draws (shape, colour, size, texture), with a held-out pair if and only if `novel`."""
    while True:
        shape, colour = choose(rng, SHAPES), choose(rng, COLOURS)
        size, texture = choose(rng, SIZES), choose(rng, TEXTURES, (2, 1, 1))
        if _novel(shape, colour, texture) == novel:
            return shape, colour, size, texture


def _sample_centres(rng: np.random.Generator, radii: Sequence[float]) -> list[tuple[float, float]]:
    """Draws the centres (x, y) by rejection: discs at least _GAP apart and within the border.

    512 layouts are tried at once, because four large things fit in one of several hundred.
    """
    radius = np.asarray(radii)
    low = radius + _MARGIN
    first, second = np.triu_indices(len(radii), 1)
    reach = radius[first] + radius[second] + _GAP
    while True:
        unit = rng.random((512, len(radii), 2))
        centres = np.floor((low[:, None] + unit * (SIZE - 2 * low[:, None])) * 64) / 64
        offset = centres[:, first] - centres[:, second]
        apart = (offset[..., 0] ** 2 + offset[..., 1] ** 2 >= reach**2).all(axis=1)
        if apart.any():
            return [(float(x), float(y)) for x, y in centres[apart.argmax()]]


def _grid(value: float) -> float:
    """The value rounded to 1/64, so that later arithmetic is exact."""
    return round(value * 64) / 64
