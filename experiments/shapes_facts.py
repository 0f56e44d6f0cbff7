"""Rewards for `shapes` as JAX functions of token ids: facts, and one that is easily gamed.

Shapes: see docs/architecture.md; N counts the facts that a caption can state.
"""

import dataclasses

import jax
import jax.numpy as jnp

from capjax.data.shapes import grammar
from capjax.data.shapes.scene import COLOURS, MAX_THINGS, SHAPES
from capjax.data.tokenizer import Tokenizer
from capjax.metrics import ngrams
from capjax.metrics.reward import WithoutCorpus

# Kinds of words. The four after the shape are of a mention.
OTHER, SHAPE, COLOUR, SIZE, TEXTURE, NUMBER, PATTERN, NOUN, RELATION = range(9)
_OF_MENTION = (COLOUR, SIZE, TEXTURE, NUMBER)
_TOTAL, _RELATED = 900, 1000  # Codes of facts begin there; those of mentions are below.


def words() -> dict[str, tuple[int, int]]:
    """The kind and the value of each word of the grammar that states something."""
    found = {shape: (SHAPE, at) for at, shape in enumerate(SHAPES)}
    found |= {grammar.PLURALS[shape]: (SHAPE, at) for at, shape in enumerate(SHAPES)}
    found |= {colour: (COLOUR, at) for at, colour in enumerate(COLOURS)}
    found |= {word: (NUMBER, number) for number, word in grammar.NUMBERS.items()}
    found |= {word: (NOUN, 0) for word in grammar.NOUNS}
    textures = [*grammar.TEXTURE_WORDS]
    for kind, synonyms, order in (
        (SIZE, grammar.SIZE_WORDS, [*grammar.SIZE_WORDS]),
        (TEXTURE, grammar.TEXTURE_WORDS, textures),
        (PATTERN, grammar.PATTERN_NOUNS, textures),
    ):
        found |= {word: (kind, order.index(of)) for of, many in synonyms.items() for word in many}
    # Of "to the left of" the word that no other direction has.
    said = {of: {*" ".join(many).split()} for of, many in grammar.RELATION_WORDS.items()}
    for at, of in enumerate(said):
        others = set().union(*(own for other, own in said.items() if other != of))
        found |= {word: (RELATION, at) for word in said[of] - others}
    return found


@dataclasses.dataclass(frozen=True)
class Facts(WithoutCorpus):
    """How many facts of the references a caption states, times the share of its facts that they do.

    A fact is a shape; a shape's colour, size, texture or number; the number of things; or the
    relation of two shapes, which is the same from both sides. All references together stand for
    the scene, so what is true and in none of them counts as wrong. It ranges from 0 to 1, and is 0
    for a caption that does not end. It does not ask for grammar.

    Attributes:
      kinds, values: of each token of the vocabulary; see `words`.
    """

    kinds: tuple[int, ...]
    values: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Facts":
        """The reward for a vocabulary of words."""
        known = words()
        pairs = [
            known.get(tokenizer.word(token), (OTHER, 0)) for token in range(tokenizer.vocab_size)
        ]
        return cls(*zip(*pairs, strict=True))

    def __call__(
        self,
        table: jax.Array,
        hypotheses: jax.Array,
        hypothesis_lengths: jax.Array,
        references: jax.Array,
        reference_lengths: jax.Array,
    ) -> jax.Array:
        """See `capjax.metrics.reward.Reward`."""
        said = self.facts(hypotheses, hypothesis_lengths)
        given = self.facts(references, reference_lengths)
        scene = given.reshape(len(given), 1, 1, -1)
        true = ((said[..., None] == scene) & (said >= 0)[..., None]).any(axis=-1).sum(axis=-1)
        stated, number = ((found >= 0).sum(axis=-1) for found in (said, given))
        exists = (reference_lengths > 0).sum(axis=1, keepdims=True)
        usual = number.sum(axis=1, keepdims=True) / jnp.maximum(exists, 1)
        score = true / jnp.maximum(stated, 1) * jnp.minimum(true / jnp.maximum(usual, 1), 1)
        place = jnp.arange(hypotheses.shape[-1])
        ends = (hypotheses == table) & (place < hypothesis_lengths[..., None])
        return jnp.where(ends.any(axis=-1), score, 0.0).astype(jnp.float32)

    def facts(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Different codes of the facts that captions state, int32 [B, K, N]; -1 for none.

        Tokens are int32 [B, K, T], lengths [B, K].
        """
        real = jnp.arange(tokens.shape[-1]) < lengths[..., None]
        # References have ids of words outside the vocabulary.
        known = jnp.minimum(tokens, len(self.kinds) - 1)
        real &= tokens < len(self.kinds)
        kind = jnp.where(real, jnp.array(self.kinds)[known], OTHER)
        value = jnp.array(self.values)[known]
        # A mention ends with its shape, but for "with stripes".
        mention = jnp.cumsum(kind == SHAPE, axis=-1) - (kind == SHAPE) - (kind == PATTERN)
        kind = jnp.where(kind == PATTERN, TEXTURE, kind)
        of_all = jnp.pad(kind[..., 1:], ((0, 0), (0, 0), (0, 1))) == NOUN

        def most(where: jax.Array) -> jax.Array:
            return jnp.where(where, value, -1).max(axis=-1, initial=-1)

        shapes, codes = [], []
        for place in range(MAX_THINGS):
            here = mention == place
            shape = most(here & (kind == SHAPE))
            shapes.append(shape)
            codes.append(shape)
            for own in _OF_MENTION:
                found = most(here & (kind == own) & ~of_all)
                code = 100 * own + 10 * found + shape
                codes.append(jnp.where((found < 0) | (shape < 0), -1, code))
        total = most((kind == NUMBER) & of_all)
        codes.append(jnp.where(total < 0, -1, _TOTAL + total))
        where, (first, second) = most(kind == RELATION), shapes[:2]
        # Left and right, above and below: odd ones are the other way round.
        ends = jnp.where(where % 2 == 1, 10 * second + first, 10 * first + second)
        code = _RELATED + 100 * (where // 2) + ends
        codes.append(jnp.where((where < 0) | (second < 0), -1, code))
        found = jnp.stack(codes, axis=-1)
        order = jnp.arange(found.shape[-1])
        again = ((found[..., None] == found[..., None, :]) & (order < order[:, None])).any(axis=-1)
        return jnp.where(again, -1, found)


@dataclasses.dataclass(frozen=True)
class Precision(WithoutCorpus):
    """The share of a caption's words that a reference has, BLEU-1 without its brevity penalty.

    To show how a reward is gamed: few words are enough.
    """

    def __call__(
        self,
        table: jax.Array,
        hypotheses: jax.Array,
        hypothesis_lengths: jax.Array,
        references: jax.Array,
        reference_lengths: jax.Array,
    ) -> jax.Array:
        """See `capjax.metrics.reward.Reward`."""
        said = ngrams.words_of(
            hypotheses, hypothesis_lengths, table, end_token=False, reference=False
        )
        given = ngrams.words_of(
            references, reference_lengths, table, end_token=False, reference=True
        )
        own, both = ngrams.counts_within(said)[0], ngrams.counts_in(said, given)[0]
        matches = (jnp.minimum(own, both.max(axis=2, initial=0)) / own).sum(axis=0)
        return (matches / jnp.maximum(said.size, 1)).T
