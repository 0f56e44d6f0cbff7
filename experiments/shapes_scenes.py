"""A reward for `shapes` that compares captions with the scene itself, as a JAX function of ids.

Shapes: see docs/architecture.md; M counts the mentions of a caption and the things of a scene.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.shapes.grammar import RELATION_WORDS, SIZE_WORDS, TEXTURE_WORDS
from capjax.data.shapes.scene import (
    COLOURS,
    MAX_THINGS,
    SHAPES,
    Scene,
    image_id,
    relation,
    scene_of,
)
from capjax.data.tokenizer import Tokenizer
from experiments.shapes_facts import (
    COLOUR,
    NOUN,
    NUMBER,
    OTHER,
    PATTERN,
    RELATION,
    SHAPE,
    SIZE,
    TEXTURE,
    words,
)

_ATTRIBUTES = (SHAPE, COLOUR, SIZE, TEXTURE)
_VALUES = (SHAPES, COLOURS, (*SIZE_WORDS,), (*TEXTURE_WORDS,))
_KINDS = len(_ATTRIBUTES) + 2  # With count and relation.
# Each assignment of mentions to things.
_ORDERS = np.array([*itertools.permutations(range(MAX_THINGS))])
# Odd numbers for `_key`: more than references and their tokens.
_FACTORS = np.random.Generator(np.random.PCG64(0)).integers(2**32, size=(8, 64), dtype=np.uint32)
_FACTORS |= np.uint32(1)


class Said(NamedTuple):
    """What captions say, as values of the words of a kind, -1 for none.

    Attributes:
      of: int32 [..., M, 4], of each mention the values of `_ATTRIBUTES`.
      number: int32 [..., M], the number of a mention, and `total` [...], that of all things.
      relation: int32 [...], from the second mention to the first.
      sound: bool [...], False where a kind of words occurs twice in a mention, or without a shape.
    """

    of: jax.Array
    number: jax.Array
    total: jax.Array
    relation: jax.Array
    sound: jax.Array

    @property
    def facts(self) -> jax.Array:
        """The number of facts of each kind, float32 [..., 6], in the order of `facts.KINDS`."""
        counted = (self.number >= 0).sum(axis=-1) + (self.total >= 0)
        kinds = [*jnp.moveaxis((self.of >= 0).sum(axis=-2), -1, 0), counted, self.relation >= 0]
        return jnp.stack([kind.astype(jnp.float32) for kind in kinds], axis=-1)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """What a caption states, if it ends and all of it is true of the scene; else -1.

    Truth is that of `capjax.data.shapes.facts.check`, by the scenes of the train split, and not by
    the references: of true facts they state about half. A caption with three words in a row that
    no reference has in a row is false, which leaves little but the grammar of `shapes`.

    A true caption gains for each kind of facts those that it states, at most as many as one of the
    references, over the mean of all references. But the samples of an image together gain no more
    than if they stated a kind as often as references do. What the others leave out is so worth
    more, and samples stay a mixture of sentences.

    An image is known by its references, since a reward is given nothing else.

    Attributes:
      kinds, values: of each token of the vocabulary; see `shapes_facts.words`.
    """

    kinds: tuple[int, ...]
    values: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Scenes":
        """The reward for a vocabulary of words."""
        known = words()
        tokens = range(tokenizer.vocab_size)
        pairs = [known.get(tokenizer.word(token), (OTHER, 0)) for token in tokens]
        return cls(*zip(*pairs, strict=True))

    def prepare(
        self, references: Sequence[Sequence[np.ndarray]], *, eos_id: int, vocab_size: int
    ) -> dict[str, np.ndarray]:
        """The scenes of the train split, ordered by the keys of their references; see `Reward`."""
        longest = max(len(ids) for of_image in references for ids in of_image)
        lengths = np.array([[len(ids) for ids in of_image] for of_image in references])
        tokens = np.zeros((*lengths.shape, longest), np.int32)
        for place in np.ndindex(lengths.shape):
            tokens[place][: lengths[place]] = references[place[0]][place[1]]
        rows = np.zeros([vocab_size] * 3, bool)
        for ids in itertools.chain.from_iterable(references):
            rows[[eos_id, eos_id, *ids[:-2]], [eos_id, *ids[:-1]], ids] = True
        keys = np.asarray(_key(jnp.asarray(tokens), jnp.asarray(lengths)))
        if len({*keys.tolist()}) < len(keys):
            raise ValueError("two images have the same references, by which their scenes are known")
        order = np.argsort(keys)
        scenes = [scene_of(image_id("train", index)) for index in order]
        facts = jax.jit(lambda *captions: self.read(*captions).facts)
        parts = (slice(at, at + 1000) for at in range(0, len(keys), 1000))
        return {
            "end": np.asarray(eos_id, np.int32),
            "rows": rows,
            "keys": keys[order],
            "things": np.stack([_things(scene) for scene in scenes]),
            "relations": np.stack([_relations(scene) for scene in scenes]),
            "usual": np.concatenate([facts(tokens[part], lengths[part]) for part in parts]).mean(
                axis=(0, 1)
            ),
        }

    def __call__(
        self,
        table: dict[str, jax.Array],
        hypotheses: jax.Array,
        hypothesis_lengths: jax.Array,
        references: jax.Array,
        reference_lengths: jax.Array,
    ) -> jax.Array:
        """See `capjax.metrics.reward.Reward`."""
        keys = jnp.asarray(table["keys"])
        row = jnp.searchsorted(keys, _key(references, reference_lengths)).clip(max=len(keys) - 1)
        said = self.read(hypotheses, hypothesis_lengths)
        true = is_true(
            said, jnp.asarray(table["things"])[row], jnp.asarray(table["relations"])[row]
        )
        real = jnp.arange(hypotheses.shape[-1]) < hypothesis_lengths[..., None]
        one, two = (jnp.roll(hypotheses, n, axis=-1).at[..., :n].set(table["end"]) for n in (1, 2))
        true &= (jnp.asarray(table["rows"])[two, one, hypotheses] | ~real).all(axis=-1)
        true &= ((hypotheses == table["end"]) & real).any(axis=-1)
        most = self.read(references, reference_lengths).facts.max(axis=1, keepdims=True)
        stated = jnp.where(true[..., None], jnp.minimum(said.facts, most), 0.0)
        whole = jnp.maximum(jnp.asarray(table["usual"]), stated.mean(axis=1, keepdims=True))
        return jnp.where(true, (stated / whole).mean(axis=-1), -1.0).astype(jnp.float32)

    def read(self, tokens: jax.Array, lengths: jax.Array) -> Said:
        """Reads captions: int32 [B, K, T], lengths [B, K]."""
        real = jnp.arange(tokens.shape[-1]) < lengths[..., None]
        real &= tokens < len(self.kinds)  # References have words outside.
        known = jnp.minimum(tokens, len(self.kinds) - 1)
        kind = jnp.where(real, jnp.array(self.kinds)[known], OTHER)
        value = jnp.array(self.values)[known]
        # A mention ends with its shape, but for "with stripes".
        mention = jnp.cumsum(kind == SHAPE, axis=-1) - (kind == SHAPE) - (kind == PATTERN)
        kind = jnp.where(kind == PATTERN, TEXTURE, kind)
        of_all = jnp.pad(kind[..., 1:], ((0, 0), (0, 0), (0, 1))) == NOUN
        # [B, K, 1, T] and [M, 1]: words by mention.
        here = mention[..., None, :] == jnp.arange(MAX_THINGS)[:, None]
        where = [here & ((kind == own) & ~of_all)[..., None, :] for own in (*_ATTRIBUTES, NUMBER)]
        where = [*where, (kind == NUMBER) & of_all, kind == RELATION]
        *of, number, total, relation = (
            jnp.where(at, value if at.ndim == 3 else value[..., None, :], -1).max(axis=-1)
            for at in where
        )
        twice = [(at.sum(axis=-1) > 1).reshape(*tokens.shape[:2], -1) for at in where]
        said = jnp.stack(of, axis=-1)
        lost = (said[..., 0] < 0) & ((said[..., 1:] >= 0).any(axis=-1) | (number >= 0))
        many = (kind == SHAPE).sum(axis=-1) > MAX_THINGS
        wrong = jnp.concatenate([*twice, lost, many[..., None]], axis=-1).any(axis=-1)
        return Said(said, number, total, relation, ~wrong)


def is_true(said: Said, things: jax.Array, relations: jax.Array) -> jax.Array:
    """Whether all facts of captions are true of the scenes, bool [B, K].

    Args:
      said: of K captions an image.
      things: int32 [B, M, 4], values of `_ATTRIBUTES`, -1 for no thing.
      relations: int32 [B, M, M], from the second thing to the first.
    """
    exists = (things[..., 0] >= 0)[:, None, None]  # [B, 1, 1, M]
    own, scene = said.of[..., None, :], things[:, None, None]
    fits = ((own < 0) | (own == scene)).all(axis=-1) & exists  # [B, K, mention, thing]
    counts = (said.number < 0) | (fits.sum(axis=-1) == said.number)
    total = (said.total < 0) | (exists[..., 0, :].sum(axis=-1) == said.total)
    # Mentions of several things take as many different ones.
    number = jnp.where(said.of[..., 0] >= 0, jnp.maximum(said.number, 1), 0)
    until = number.cumsum(axis=-1)
    slot = jnp.arange(MAX_THINGS)
    mention = (slot[:, None] >= until[..., None, :]).sum(axis=-1)
    used = slot < until[..., -1:]
    fits = jnp.take_along_axis(fits, mention.clip(max=MAX_THINGS - 1)[..., None], axis=-2)
    held = (fits | ~used[..., None])[..., slot, _ORDERS].all(axis=-1)  # [B, K, order]
    pair = relations[:, None, _ORDERS[:, 0], _ORDERS[:, 1]] == said.relation[..., None]
    held &= (said.relation < 0)[..., None] | pair & (number[..., :2] == 1).all(-1, keepdims=True)
    held &= (said.relation < 0)[..., None] | (until[..., 1:2] == until[..., -1:])
    some = (until[..., -1] > 0) | (said.total >= 0)
    few = until[..., -1] <= MAX_THINGS
    return said.sound & some & few & total & counts.all(axis=-1) & held.any(axis=-1)


def _key(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """A number for the references of each image, uint32 [B]."""
    factors = jnp.asarray(_FACTORS[: tokens.shape[-2], : tokens.shape[-1]])
    real = jnp.arange(tokens.shape[-1]) < lengths[..., None]
    parts = jnp.where(real, (tokens.astype(jnp.uint32) + 1) * factors, 0)
    return parts.sum(axis=(-2, -1), dtype=jnp.uint32)


def _things(scene: Scene) -> np.ndarray:
    found = np.full((MAX_THINGS, len(_ATTRIBUTES)), -1, np.int32)
    for row, thing in zip(found, scene.things, strict=False):
        row[:] = [values.index(value) for values, value in zip(_VALUES, thing, strict=False)]
    return found


def _relations(scene: Scene) -> np.ndarray:
    found = np.full((MAX_THINGS, MAX_THINGS), -1, np.int32)
    directions = [*RELATION_WORDS]
    for first, second in itertools.permutations(range(len(scene.things)), 2):
        where = relation(scene.things[first], scene.things[second])
        found[first, second] = directions.index(where)
    return found
