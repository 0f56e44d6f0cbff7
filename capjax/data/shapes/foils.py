"""Foils of `shapes`: references with one fact made false.

A model that sees an image finds the reference likelier than its foil, whatever it prefers to say
itself, so that silence gains nothing: as in FOIL (Shekhar et al. 2017), ARO (Yuksekgonul et al.
2023) and SugarCrepe (Hsieh et al. 2023). Words alone must not tell the two apart, therefore:

* A foil is a sentence of the grammar with as many words as its reference. It differs in one word,
  which makes exactly one fact false.
* A foil states none of HELDOUT_PAIRS that its reference does not state: training shows none.
* Some values are likelier than others in their place: "large" comes first more often than "small".
  So between any two values in a place as many foils go one way as the other, and the rest is left
  out. Only foils of novel pairs can't be balanced: the novel pair is always the reference's.

The kind of a foil is that of its false fact, one of `facts.KINDS`; with NOVEL before it where the
reference states one of HELDOUT_PAIRS that the foil does not state.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from capjax.data.dataset import NOVEL, Foil
from capjax.data.shapes import grammar
from capjax.data.shapes.facts import Claims, Fact, check, facts_of, parse
from capjax.data.shapes.scene import (
    COLOURS,
    HELDOUT_PAIRS,
    SHAPES,
    Scene,
    parse_image_id,
    rng_of,
    scene_of,
)


class _Change(NamedTuple):
    """A foil, the place of its fact, and the fact's values in the reference and in the foil."""

    foil: Foil
    place: tuple
    values: tuple[str, str]


def foils_of(image_ids: Iterable[str]) -> list[Foil]:
    """Makes foils of images of `shapes`, up to one of each kind per image.

    Which ones depends on the ids alone.

    Raises:
      ValueError: an id is not of `shapes`.
    """
    ways = defaultdict(list)
    for image_id in sorted(image_ids):
        for change in _draw(image_id):
            ways[change.foil.kind, change.place, change.values].append(change.foil)
    found = []
    for (kind, place, values), foils in ways.items():
        back = ways.get((kind, place, values[::-1]), [])
        found += foils if kind.startswith(NOVEL) else foils[: len(back)]
    return sorted(found)


def _draw(image_id: str) -> Iterator[_Change]:
    """Draws one change of each kind that the references of an image allow."""
    split, index, seed = parse_image_id(image_id)
    rng = rng_of(seed, split, index, stream=2)
    scene = scene_of(image_id)
    options = []
    for reference in grammar.captions_of(image_id):
        claims = parse(reference)
        pairs = _heldout_pairs(claims)
        for kind, foil, weight in _rewordings(reference):
            # In this order the first of any subset is a draw by weight (Efraimidis and Spirakis
            # 2006), so that most foils need not be checked.
            options.append((rng.random() ** (1 / weight), kind, reference, claims, pairs, foil))
    drawn = set()
    for _, kind, reference, claims, pairs, foil in sorted(options, key=lambda o: -o[0]):
        if kind in drawn and (not pairs or NOVEL + kind in drawn):
            continue
        told = parse(foil)
        if told is None or not (kept := _heldout_pairs(told)) <= pairs:
            continue
        name = kind if kept == pairs else NOVEL + kind
        if name not in drawn and (change := _changed_fact(claims, told, scene)):
            drawn.add(name)
            place = _place(claims, change[0])
            values = (change[0].value, change[1].value)
            yield _Change(Foil(image_id, name, reference, foil), place, values)


def _changed_fact(claims: Claims, told: Claims, scene: Scene) -> tuple[Fact, Fact] | None:
    """The fact of true claims that others change, and the changed one; None if more is false."""
    pairs = zip(facts_of(claims), facts_of(told), check(told, scene), strict=True)
    changed = [(old, new, true) for old, new, true in pairs if old != new or not true]
    if len(changed) != 1 or changed[0][2]:
        return None
    return changed[0][:2]


def _rewordings(reference: str) -> Iterator[tuple[str, str, float]]:
    """Yields (kind, the reference with one word of another meaning, the new word's weight)."""
    for match in re.finditer(r"[A-Za-z]+", reference):
        word = match[0].lower()
        for kind, options in _EXCHANGEABLE:
            meaning = options.get(word, ("", 0.0))[0]
            for other, (value, weight) in options.items():
                if meaning and value != meaning:
                    new = other.capitalize() if match[0][0].isupper() else other
                    yield kind, reference[: match.start()] + new + reference[match.end() :], weight


def _synonyms(words: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, float]]:
    """(meaning, share of a word among the words of its meaning), by word."""
    return {
        word: (meaning, weight / sum(grammar.FIRST_WORD[: len(many)]))
        for meaning, many in words.items()
        for word, weight in zip(many, grammar.FIRST_WORD, strict=False)
    }


# Kinds of facts, and words that can stand for each other.
_EXCHANGEABLE = [
    ("colour", {colour: (colour, 1.0) for colour in COLOURS}),
    ("shape", {shape: (shape, 1.0) for shape in SHAPES}),
    ("shape", {plural: (plural, 1.0) for plural in grammar.PLURALS.values()}),
    ("count", {number: (number, 1.0) for number in grammar.NUMBERS.values()}),
    ("size", _synonyms(grammar.SIZE_WORDS)),
    ("texture", _synonyms(grammar.TEXTURE_WORDS)),
    ("texture", _synonyms(grammar.PATTERN_NOUNS)),
    *(("relation", {word: (word, 1.0) for word in pair}) for pair in grammar.OPPOSITES),
]


def _place(claims: Claims, fact: Fact) -> tuple:
    """Everything in a caption that makes some values of a fact likelier than others."""
    forms = [
        (mention.number, *(kind for kind, _ in mention.attributes)) for mention in claims.mentions
    ]
    if fact.kind == "count":
        forms = [form[1:] for form in forms]
    # A pair starts with the large thing, or else with the left or upper one.
    first = dict(claims.mentions[0].attributes).get("size") if fact.kind == "relation" else None
    about = forms[fact.mention] if fact.mention >= 0 else ()
    template = (claims.total is None, claims.relation is None, len(forms))
    return fact.mention, about, first, template


def _heldout_pairs(claims: Claims) -> set[tuple[str, str]]:
    """The members of HELDOUT_PAIRS that mentions state."""
    pairs = set()
    for mention in claims.mentions:
        said = dict(mention.attributes)
        pairs |= {(said.get(kind), said["shape"]) for kind in ("colour", "texture")}
    return pairs & HELDOUT_PAIRS
