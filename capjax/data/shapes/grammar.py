"""Writes the captions of a scene: five a scene, each of five to seven atomic facts.

Templates:

    pair      a striped red circle is to the left of a blue square
    list      a large green star, a red circle and ... (all things of a scene of two or three)
    counted   there are three objects and a red circle is above a blue square
    grouped   two circles and a striped red star (all things, those of one shape as a number)

Beam search finds the likeliest caption, so a caption's likelihood must not fall with its number of
facts. Therefore every template has about six facts, things are listed from left to right, a pair
starts with the large thing or else with the left or upper one, and only clear relations are used.
Only the wording and the pair vary freely.
"""

import functools
import itertools
from collections import Counter

import numpy as np

from capjax.data.shapes.scene import (
    Relation,
    Scene,
    Thing,
    choose,
    is_clear,
    parse_image_id,
    relation,
    rng_of,
    scene_of,
)

CAPTIONS = 5
"""Captions a scene."""

NUMBERS = {2: "two", 3: "three", 4: "four"}
NOUNS = ("objects", "shapes", "things")
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
TEXTURE_WORDS = {
    "plain": ("plain", "solid"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
}
PATTERN_NOUNS = {"striped": ("stripes",), "dotted": ("dots", "spots")}
"""Nouns after "with" for a striped or dotted thing."""
RELATION_WORDS: dict[Relation, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITES = (("left", "right"), ("above", "below"), ("over", "under"))
"""Words of RELATION_WORDS that turn a relation round."""
PICTURES = ("a picture", "an image", "a drawing")

FIRST_WORD = (4, 2, 1)
"""Weights of synonyms in their order; the first is the likeliest."""


def captions(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """CAPTIONS different true captions; about a fifth with a capital and a full stop."""
    found: list[str] = []
    while len(found) < CAPTIONS:
        caption = _caption(scene, rng)
        if caption not in found:
            found.append(caption)
    return tuple(_dress(caption, rng) for caption in found)


@functools.lru_cache(maxsize=4096)  # Metrics and foils ask for them several times.
def captions_of(image_id: str) -> tuple[str, ...]:
    """The references of an image, generated from its id; ValueError for an id not of `shapes`."""
    split, index, seed = parse_image_id(image_id)
    return captions(scene_of(image_id), rng_of(seed, split, index, stream=1))


def _caption(scene: Scene, rng: np.random.Generator) -> str:
    few = len(scene.things) <= 3
    templates = [(_pair, 4), (_counted, 2)]
    templates += [(_list, 3)] if few else []
    templates += [(_grouped, 2)] if _group(scene) else []
    template = choose(rng, [t for t, _ in templates], [weight for _, weight in templates])
    return template(scene, rng)


def _dress(caption: str, rng: np.random.Generator) -> str:
    return caption if rng.random() < 0.8 else caption.capitalize() + "."


def _pair(scene: Scene, rng: np.random.Generator) -> str:
    first, second, where = _related(scene, rng)
    start = _opener(rng)
    verb = "is " if not start and rng.random() < 0.7 else ""
    return f"{start}{_full(first, rng)} {verb}{where} {_short(second)}"


def _counted(scene: Scene, rng: np.random.Generator) -> str:
    first, second, where = _related(scene, rng)
    number = NUMBERS[len(scene.things)]
    noun = _word(rng, NOUNS)
    if rng.random() < 0.5:
        return f"there are {number} {noun} and {_short(first)} is {where} {_short(second)}"
    return f"{number} {noun} with {_short(first)} {where} {_short(second)}"


def _list(scene: Scene, rng: np.random.Generator) -> str:
    if len(scene.things) == 2:
        mentions = [_full(thing, rng) for thing in scene.things]
    else:
        mentions = [_short(thing) for thing in scene.things]
    return _opener(rng) + _join(mentions)


def _grouped(scene: Scene, rng: np.random.Generator) -> str:
    shape = _group(scene)
    others = [thing for thing in scene.things if thing.shape != shape]
    number = len(scene.things) - len(others)
    single = len(others) == 1
    mentions = [f"{NUMBERS[number]} {PLURALS[shape]}"]
    mentions += [_full(thing, rng) if single else _short(thing) for thing in others]
    return _opener(rng, there="there are ") + _join(mentions)


def _group(scene: Scene) -> str:
    """The only shape of several things, in a scene with other shapes too; else ""."""
    counts = Counter(thing.shape for thing in scene.things)
    several = [shape for shape, count in counts.items() if count > 1]
    return several[0] if len(several) == 1 and len(counts) > 1 else ""


def _related(scene: Scene, rng: np.random.Generator) -> tuple[Thing, Thing, str]:
    """A clear pair, the large thing or else the left or upper one first, and their relation."""
    pairs = [(a, b) for a, b in itertools.combinations(scene.things, 2) if is_clear(a, b)]
    first, second = choose(rng, pairs)
    if first.size != second.size:
        swap = second.size == "large"
    else:
        swap = relation(first, second) in ("right", "below")
    if swap:
        first, second = second, first
    return first, second, _word(rng, RELATION_WORDS[relation(first, second)])


def _opener(rng: np.random.Generator, there: str = "there is ") -> str:
    kind = choose(rng, ("", there, "picture"), (6, 2, 2))
    if kind != "picture":
        return kind
    return f"{_word(rng, PICTURES)} {_word(rng, ('of', 'with'))} "


def _short(thing: Thing) -> str:
    """Colour and shape: two facts."""
    return f"a {thing.colour} {thing.shape}"


def _full(thing: Thing, rng: np.random.Generator) -> str:
    """Shape and two of size, texture and colour: three facts.

    A pattern usually replaces the size.
    """
    size = _word(rng, SIZE_WORDS[thing.size])
    texture = _word(rng, TEXTURE_WORDS[thing.texture])
    if thing.texture == "plain":
        mark = choose(rng, (size, texture), (3, 1))
        return f"a {mark} {thing.colour} {thing.shape}"
    kind = choose(rng, ("adjective", "noun", "sized"), (5, 2, 2))
    if kind == "noun":
        pattern = _word(rng, PATTERN_NOUNS[thing.texture])
        return f"a {thing.colour} {thing.shape} with {pattern}"
    if kind == "sized":
        return f"a {size} {texture} {thing.shape}"
    return f"a {texture} {thing.colour} {thing.shape}"


def _word(rng: np.random.Generator, synonyms: tuple[str, ...]) -> str:
    return choose(rng, synonyms, FIRST_WORD[: len(synonyms)])


def _join(mentions: list[str]) -> str:
    return ", ".join(mentions[:-1]) + " and " + mentions[-1]
