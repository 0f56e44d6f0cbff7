"""Checks the captions of `shapes`: parses their claims and compares them with the scene.

A caption is a conjunction over the things that it mentions. Its atomic facts are

    shape, colour, size, texture   one for each attribute of a mention
    count                          one for each number, "two circles" or "three objects"
    relation                       one for "... is above ..."

so "three objects with a red circle above a blue star" has six. A number is the exact count in the
whole scene. "A red circle" means at least one; different mentions are different things. A relation
is the direction of the larger offset between two centres. The facts are checked jointly: mentions
are assigned to distinct things so that the most facts are true, and a caption is true if all its
facts then are. A caption outside the grammar has no facts and is not true.

The grammar is slightly wider than that of `grammar` (attributes in any order, an optional "is"): it
accepts other wordings of the same claims, but no other claims.
"""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from capjax.data.shapes import grammar
from capjax.data.shapes.scene import (
    COLOURS,
    MAX_THINGS,
    SHAPES,
    Relation,
    Scene,
    Thing,
    relation,
)

KINDS = ("shape", "colour", "size", "texture", "count", "relation")
"""The kinds of atomic facts."""


class Mention(NamedTuple):
    """One noun phrase.

    Attributes:
      number: number of things; 1 for "a".
      attributes: (kind, value) pairs, each kind at most once, the shape last.
    """

    number: int
    attributes: tuple[tuple[str, str], ...]


class Claims(NamedTuple):
    """The claims of a caption.

    Attributes:
      mentions: its noun phrases in order, of at most MAX_THINGS things.
      total: the stated number of things in the image, or None.
      relation: direction from the second mention to the first, or None.
    """

    mentions: tuple[Mention, ...]
    total: int | None = None
    relation: Relation | None = None


class Fact(NamedTuple):
    """One atomic fact.

    Attributes:
      kind: one of KINDS.
      mention: index of its mention, 0 for a relation and -1 for the total.
      value: the attribute's value, the relation, or the number as a string.
    """

    kind: str
    mention: int
    value: str


_ADJECTIVES = {
    **{colour: ("colour", colour) for colour in COLOURS},
    **{word: ("size", size) for size, words in grammar.SIZE_WORDS.items() for word in words},
    **{word: ("texture", name) for name, words in grammar.TEXTURE_WORDS.items() for word in words},
}
_PATTERNS = {word: name for name, words in grammar.PATTERN_NOUNS.items() for word in words}
_NUMBERS = {word: number for number, word in grammar.NUMBERS.items()}
_SINGULAR = {shape: shape for shape in SHAPES}
_PLURAL = {plural: shape for shape, plural in grammar.PLURALS.items()}
_RELATIONS = {
    tuple(words.split()): name for name, many in grammar.RELATION_WORDS.items() for words in many
}
_OPENERS = [("there", "is"), ("there", "are")] + [
    (*picture.split(), joint) for picture in grammar.PICTURES for joint in ("of", "with")
]


def parse(caption: str) -> Claims | None:
    """Parses a caption; None where it is not a sentence of the grammar.

    Case and punctuation are ignored.
    """
    words = re.sub(r"[^a-z]+", " ", caption.lower()).split()
    try:
        return _Parser(words).caption()
    except _NotGrammatical:
        return None


def facts(caption: str) -> list[Fact]:
    """The atomic facts of a caption; none where it does not parse."""
    claims = parse(caption)
    return [] if claims is None else facts_of(claims)


def facts_of(claims: Claims) -> list[Fact]:
    """The atomic facts of claims in the order of the words, the relation last."""
    found = [] if claims.total is None else [Fact("count", -1, str(claims.total))]
    for index, mention in enumerate(claims.mentions):
        if mention.number > 1:
            found.append(Fact("count", index, str(mention.number)))
        found += [Fact(kind, index, value) for kind, value in mention.attributes]
    if claims.relation is not None:
        found.append(Fact("relation", 0, claims.relation))
    return found


def check(claims: Claims, scene: Scene) -> list[bool]:
    """The truth of each of `facts_of(claims)`, by the assignment to things with most true facts.

    Ties are broken by the number of true shapes: colours exchanged between two things are wrong
    colours, not wrong shapes.
    """
    stated = facts_of(claims)
    slots = [index for index, mention in enumerate(claims.mentions) for _ in range(mention.number)]
    spare = [None] * max(0, len(slots) - len(scene.things))
    best, most = [], (-1, -1)
    for chosen in itertools.permutations([*scene.things, *spare], len(slots)):
        meant: list[list[Thing | None]] = [[] for _ in claims.mentions]
        for index, thing in zip(slots, chosen, strict=True):
            meant[index].append(thing)
        held = [_holds(fact, claims, meant, scene) for fact in stated]
        shapes = sum(true for fact, true in zip(stated, held, strict=True) if fact.kind == "shape")
        if (sum(held), shapes) > most:
            best, most = held, (sum(held), shapes)
        if all(best):
            break
    return best


def is_true(caption: str, scene: Scene) -> bool:
    """True where a caption parses and all its facts are true."""
    claims = parse(caption)
    return claims is not None and all(check(claims, scene))


def _holds(
    fact: Fact, claims: Claims, meant: Sequence[Sequence[Thing | None]], scene: Scene
) -> bool:
    """True where a fact holds if `meant[i]` are the things of mention i."""
    if fact.kind == "count":
        described = () if fact.mention < 0 else claims.mentions[fact.mention].attributes
        matching = [t for t in scene.things if all(getattr(t, k) == v for k, v in described)]
        return len(matching) == int(fact.value)
    if None in meant[fact.mention]:
        return False
    if fact.kind == "relation":
        first, second = meant[0][0], meant[1][0]
        return second is not None and relation(first, second) == fact.value
    return all(getattr(thing, fact.kind) == fact.value for thing in meant[fact.mention])


class _NotGrammatical(Exception):
    """The words are not a sentence of the grammar."""


class _Parser:
    """Recursive descent parser of the grammar

    caption  = [opener] body | [opener] number noun [("with" | "and") body]
    body     = np ["is"] relation np | np {["and"] np}
    np       = "a" {adjective} shape [pattern] | number {adjective} shapes [pattern]
    pattern  = "with" ("stripes" | "dots" | "spots")
    """

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self.at = 0

    def caption(self) -> Claims:
        any(self.take(*opener) for opener in _OPENERS)
        total = None
        if self.peek() in _NUMBERS and self.peek(1) in grammar.NOUNS:
            total = _NUMBERS[self.peek()]
            self.at += 2
            if self.at == len(self.words):
                return Claims((), total)
            if not (self.take("with") or self.take("and")):
                raise _NotGrammatical
        mentions, where = self.body()
        if self.at < len(self.words) or sum(m.number for m in mentions) > MAX_THINGS:
            raise _NotGrammatical
        return Claims(mentions, total, where)

    def body(self) -> tuple[tuple[Mention, ...], Relation | None]:
        mentions = [self.mention()]
        says_is = self.take("is")
        for words, where in _RELATIONS.items():
            if self.take(*words):
                mentions.append(self.mention())
                if any(mention.number > 1 for mention in mentions):
                    raise _NotGrammatical
                return tuple(mentions), where
        if says_is:
            raise _NotGrammatical
        while self.at < len(self.words):
            self.take("and")
            mentions.append(self.mention())
        return tuple(mentions), None

    def mention(self) -> Mention:
        number = _NUMBERS.get(self.peek(), 1)
        if number == 1 and self.peek() != "a":
            raise _NotGrammatical
        self.at += 1
        said: dict[str, str] = {}
        while self.peek() in _ADJECTIVES:
            self.say(said, *_ADJECTIVES[self.peek()])
        names = _SINGULAR if number == 1 else _PLURAL
        if self.peek() not in names:
            raise _NotGrammatical
        shape = names[self.peek()]
        self.at += 1
        if self.peek() == "with" and self.peek(1) in _PATTERNS:
            self.at += 1
            self.say(said, "texture", _PATTERNS[self.peek()])
        return Mention(number, (*said.items(), ("shape", shape)))

    def say(self, said: dict[str, str], kind: str, value: str) -> None:
        """Adds the attribute of the current word and advances; refuses a repeated kind."""
        if kind in said:
            raise _NotGrammatical
        said[kind] = value
        self.at += 1

    def peek(self, ahead: int = 0) -> str:
        return self.words[self.at + ahead] if self.at + ahead < len(self.words) else ""

    def take(self, *words: str) -> bool:
        """Advances over `words` if they come next."""
        if self.words[self.at : self.at + len(words)] != words:
            return False
        self.at += len(words)
        return True
