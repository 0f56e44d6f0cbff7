"""A trie of the captions that a search may say. Shapes: see docs/architecture.md.

1. A node stands for the beginning of some listed captions, and is numbered breadth first from the
   root 0. The children of a node then have consecutive numbers, here in the order of their tokens.
2. A beam's node is found from the root, by a binary search among the children for each token.
3. Its children's tokens may follow. The end token of a caption leads to a leaf, and nothing may
   follow a beginning that is not listed.

Cao et al. 2021, "Autoregressive Entity Retrieval", section 3.2, search in such a trie.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True)
class Trie:
    """A trie of n nodes; `of` builds it. Hashable, so that it can be static under `jit`.

    Attributes:
      tokens: the token that leads to each node; -1 for the root.
      children: the first child of each node, then n: those of i are children[i] up to
        children[i + 1].
      longest: most tokens of a caption, with eos.
      vocab_size: V.
    """

    tokens: tuple[int, ...]
    children: tuple[int, ...]
    longest: int
    vocab_size: int

    @classmethod
    def of(cls, captions: Iterable[Sequence[int]], *, eos_id: int, vocab_size: int) -> "Trie":
        """Builds the trie of captions, ids "words ... eos" without the start token.

        Raises:
          ValueError: there is no caption, or one does not end with its only eos or has an id
            outside the vocabulary.
        """
        listed = sorted({tuple(int(token) for token in caption) for caption in captions})
        if not listed:
            raise ValueError("a list of allowed captions must have at least one")
        for caption in listed:
            if caption[-1:] != (eos_id,) or eos_id in caption[:-1]:
                raise ValueError(
                    f"the allowed caption {caption} must end with eos_id={eos_id}, its only one"
                )
            if not 0 <= min(caption) <= max(caption) < vocab_size:
                raise ValueError(
                    f"the allowed caption {caption} has ids outside the vocabulary of {vocab_size}"
                )
        longest = max(map(len, listed))
        tokens, children = [-1], []
        level: list[list[tuple[int, ...]]] = [listed]  # The captions of each node of a depth.
        for depth in range(longest + 1):
            below: list[list[tuple[int, ...]]] = []
            for through in level:
                children.append(len(tokens))
                groups: dict[int, list[tuple[int, ...]]] = {}
                for caption in through:
                    if len(caption) > depth:
                        groups.setdefault(caption[depth], []).append(caption)
                tokens += groups
                below += groups.values()
            level = below
        return cls(tuple(tokens), (*children, len(tokens)), longest, vocab_size)

    def begins(self, tokens: Sequence[int]) -> bool:
        """True if a listed caption begins with these tokens, such as those of a prompt."""
        node = 0
        for token in tokens:
            among = self.tokens[self.children[node] : self.children[node + 1]]
            if token not in among:
                return False
            node = self.children[node] + among.index(token)
        return True

    def allowed(self, history: jax.Array, length: jax.Array) -> jax.Array:
        """The tokens that may follow: bool [B, K, V].

        Args:
          history: int32 [B, K, L], the tokens fed, from the start token on.
          length: int32 scalar, how many of them are real.
        """
        widest = int(np.diff(self.children).max())
        # Past the last node is one without children, for what is not listed.
        tokens = jnp.array((*self.tokens, -1), jnp.int32)
        children = jnp.array((*self.children, self.children[-1]), jnp.int32)

        def descend(place: jax.Array, node: jax.Array) -> jax.Array:
            token = history[..., place]
            low, end = children[node], children[node + 1]
            high = end
            for _ in range(widest.bit_length()):  # To the first child that is not below the token.
                middle = (low + high) // 2
                below = (low < high) & (tokens[middle] < token)
                low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle)
            return jnp.where((low < end) & (tokens[low] == token), low, len(self.tokens))

        node = lax.fori_loop(1, length, descend, jnp.zeros(history.shape[:2], jnp.int32))
        following = children[node][..., None] + jnp.arange(widest)
        real = following < children[node + 1][..., None]
        # An index outside the vocabulary is dropped.
        places = jnp.where(real, tokens[following], self.vocab_size)
        images, beams = map(jnp.arange, history.shape[:2])
        none = jnp.zeros((*history.shape[:2], self.vocab_size), bool)
        return none.at[images[:, None, None], beams[:, None], places].set(True, mode="drop")
