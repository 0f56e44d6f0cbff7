"""The interface of rewards, and the token ids of their references. They are in `metrics/rewards/`.

Shapes: see docs/architecture.md.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from capjax.data.ragged import Ragged, Texts
from capjax.data.tokenizer import Tokenizer
from capjax.parts import REWARDS
from capjax.parts.registry import PartError


class Reward(Protocol):
    """A score of captions as a JAX function of token ids; more is better.

    A reward is a frozen dataclass. Its fields are those of its config section. One whose `prepare`
    makes no use of references has `needs_corpus = False` in its class.
    """

    def prepare(
        self, references: Sequence[Sequence[np.ndarray]], *, eos_id: int, vocab_size: int
    ) -> Any:
        """Prepares what the reward knows of a corpus, on the host.

        Args:
          references: the captions of each image of the train split, each int [T] "words ... eos";
            words outside the vocabulary have ids from `vocab_size` (see `reference_ids`).
          eos_id: the end token.
          vocab_size: V.

        Returns:
          A pytree of arrays.
        """
        ...

    def __call__(
        self,
        table: Any,
        hypotheses: jax.Array,
        hypothesis_lengths: jax.Array,
        references: jax.Array,
        reference_lengths: jax.Array,
    ) -> jax.Array:
        """Scores each hypothesis against all references of its image.

        Tokens after a caption's length or its first end token are ignored.

        Args:
          table: the result of `prepare`.
          hypotheses: int32 [B, K, T], without a start token.
          hypothesis_lengths: int32 [B, K], tokens with the end token; 0 for no caption.
          references: int32 [B, R, T'], as `hypotheses`; T' may differ from T.
          reference_lengths: int32 [B, R].

        Returns:
          float32 [B, K]; 0 for a hypothesis or an image without captions.
        """
        ...


class WithoutCorpus:
    """A part of rewards that need no corpus: their table is the end token."""

    needs_corpus: ClassVar[bool] = False

    def prepare(
        self, references: Sequence[Sequence[np.ndarray]], *, eos_id: int, vocab_size: int
    ) -> np.ndarray:
        """Returns the end token; see `Reward`."""
        return np.asarray(eos_id, np.int32)


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """A reward that is a sum of rewards.

    Attributes:
      rewards: the rewards.
      weights: the weight of each.
    """

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if not self.rewards or len(self.rewards) != len(self.weights):
            raise ValueError(
                f"{len(self.weights)} weights of {len(self.rewards)} rewards: a sum needs a reward "
                "or more and a weight for each"
            )

    @property
    def needs_corpus(self) -> bool:
        """True if one of the rewards does."""
        return any(needs_corpus(reward) for reward in self.rewards)

    def prepare(
        self, references: Sequence[Sequence[np.ndarray]], *, eos_id: int, vocab_size: int
    ) -> tuple[Any, ...]:
        """The tables of all rewards; see `Reward`."""
        return tuple(
            reward.prepare(references, eos_id=eos_id, vocab_size=vocab_size)
            for reward in self.rewards
        )

    def __call__(
        self,
        table: tuple[Any, ...],
        hypotheses: jax.Array,
        hypothesis_lengths: jax.Array,
        references: jax.Array,
        reference_lengths: jax.Array,
    ) -> jax.Array:
        """See `Reward`."""
        captions = hypotheses, hypothesis_lengths, references, reference_lengths
        total = jnp.zeros(hypothesis_lengths.shape)
        for weight, reward, own in zip(self.weights, self.rewards, table, strict=True):
            total += weight * reward(own, *captions)
        return total


def reward_of(names: Sequence[str], weights: Sequence[float]) -> Reward:
    """Builds the weighted sum of registered rewards; one of weight 1 is itself.

    Raises:
      ValueError: there is no such reward, or there are not as many weights; its text starts with a
        field's name, rewards or reward_weights.
    """
    if len(names) != len(weights):
        raise ValueError(f"reward_weights={weights} must be as many as rewards={names}")
    try:
        found = tuple(REWARDS.get(name)() for name in names)
    except PartError as error:
        raise ValueError(f"rewards={names}: {error}") from error
    return found[0] if (*weights,) == (1.0,) else WeightedSum(found, tuple(weights))


def reward_name(names: Sequence[str], weights: Sequence[float]) -> str:
    """The name of a weighted sum, such as "cider_d+0.5bleu4"."""
    factors = ["" if weight == 1 else f"{weight:g}" for weight in weights]
    return "+".join(map("".join, zip(factors, names, strict=True)))


def needs_corpus(reward: Reward) -> bool:
    """True if a reward is prepared with captions, such as those of the train split."""
    return getattr(reward, "needs_corpus", True)


def corpus_ids(tokenizer: Tokenizer, captions: Texts | Iterable[Sequence[str]]) -> Ragged:
    """`reference_ids` of the captions of each image; the same unknown word has one id."""
    texts = captions if isinstance(captions, Texts) else Texts.of(captions)
    words: dict[str, int] = {}
    # In blocks, because the arrays of single captions are far larger than one of all.
    blocks = [Ragged.of([reference_ids(tokenizer, block, words)]) for block in texts.blocks()]
    return Ragged(
        texts.utf8.counts,
        np.concatenate([np.zeros(0, np.int32), *(block.lengths for block in blocks)]),
        np.concatenate([np.zeros(0, np.int32), *(block.flat for block in blocks)]),
    )


def reference_ids(
    tokenizer: Tokenizer, captions: Iterable[str], words: dict[str, int] | None = None
) -> list[np.ndarray]:
    """Encodes captions, each int32 [T] "words ... eos", with an id for each unknown word.

    Args:
      tokenizer: unknown words get ids from its `vocab_size`, in the order of their occurrence.
      captions: raw captions.
      words: ids of unknown words, to which new ones are added. Calls whose ids must agree, such as
        those for the corpus of a table and for other references, share it.
    """
    captions = list(captions)
    words = {} if words is None else words
    found = []
    for text, ids in zip(captions, tokenizer.encode_batch(captions), strict=True):
        if tokenizer.unk_id in ids:
            unknown = iter(tokenizer.unknown(text, len(ids)))
            ids = [
                words.setdefault(next(unknown), tokenizer.vocab_size + len(words))
                if token == tokenizer.unk_id
                else token
                for token in ids
            ]
        found.append(np.array([*ids, tokenizer.eos_id], np.int32))
    return found
