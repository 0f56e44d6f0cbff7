"""N-grams of token ids on the device, and the images of a corpus that each occurs in.

An n-gram is compared by its tokens, never by a hash alone, so no two are taken for one.

Shapes: see docs/architecture.md. L is the longest n-gram, M the slots of a table.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LONGEST = 4
# Tokens beyond the end of a hypothesis and of a reference; they equal no token and not each other.
_BEYOND = (-1, -2)


class Words(NamedTuple):
    """Hypotheses, or references, as words with the images last, so that loops run over images.

    Attributes:
      tokens: int32 [T, K, B]; negative beyond the last word.
      size: int32 [K, B], number of words of each caption.
      exists: bool [K, B], False where there is no caption.
    """

    tokens: jax.Array
    size: jax.Array
    exists: jax.Array


def words_of(
    tokens: jax.Array,
    lengths: jax.Array,
    eos_id: jax.Array | np.ndarray,
    *,
    end_token: bool,
    reference: bool,
) -> Words:
    """Takes the words of captions: all tokens up to the first end token.

    Args:
      tokens: int32 [B, K, T].
      lengths: int32 [B, K], tokens of each caption with its end token; 0 for no caption.
      eos_id: the end token, int32 scalar.
      end_token: True if the end token is a word.
      reference: False for hypotheses.
    """
    tokens, lengths = jnp.transpose(tokens, (2, 1, 0)), lengths.T
    place = jnp.arange(tokens.shape[0])[:, None, None]
    ends = (tokens == eos_id) & (place < lengths)
    first = jnp.where(ends, place, tokens.shape[0]).min(axis=0, initial=tokens.shape[0])
    size = jnp.minimum(lengths, first + 1 if end_token else first)
    kept = jnp.where(place < size, tokens, _BEYOND[reference])
    return Words(kept, size, lengths > 0)


def places(words: Words, n: int) -> jax.Array:
    """Bool [T - n + 1, K, B]: whether an n-gram begins at a place."""
    return jnp.arange(max(len(words.tokens) - n + 1, 0))[:, None, None] + n <= words.size


def counts_within(words: Words) -> list[jax.Array]:
    """How often each n-gram occurs in its caption: int32 [T - n + 1, K, B] for n = 1, 2, 3, 4.

    It is at least 1, also where no n-gram begins.
    """
    return _counts(words.tokens[:, None], words.tokens[None])


def counts_in(hypotheses: Words, references: Words) -> list[jax.Array]:
    """How often each n-gram of each hypothesis occurs in each reference of its image.

    Returns:
      int32 [T - n + 1, K, R, B] for n = 1, 2, 3, 4; 0 where no n-gram begins.
    """
    return _counts(hypotheses.tokens[:, None, :, None], references.tokens[None, :, None])


def _counts(left: jax.Array, right: jax.Array) -> list[jax.Array]:
    """Sums over the second axis of the equality of n-grams that begin at two places."""
    same = equal = left == right
    found = [equal.sum(axis=1)]
    for n in range(2, LONGEST + 1):
        equal = equal[:-1, :-1] & same[n - 1 :, n - 1 :]
        found.append(equal.sum(axis=1))
    return found


class Idf(NamedTuple):
    """Inverse document frequencies of a corpus, a cuckoo hash table.

    An n-gram is at one of two slots, and both are compared with it. N-grams of one image have the
    idf of unseen ones and are left out; so is no prefix of an n-gram that is kept.

    Attributes:
      ngrams: int32 [M, L] tokens of the n-gram in each slot, -1 after its end, -2 if empty.
      idf: float32 [M], logarithm of images / images with the n-gram.
      unseen: float32 scalar, the logarithm of the number of images.
      seed: uint32 scalar, of the hash functions.
    """

    ngrams: np.ndarray
    idf: np.ndarray
    unseen: np.ndarray
    seed: np.ndarray


def prepare_idf(corpus: Sequence[Sequence[np.ndarray]]) -> Idf:
    """Counts the images of each n-gram; a document is all references of an image.

    Args:
      corpus: the references of each image, each int [words].

    Raises:
      ValueError: there are no images.
    """
    if not corpus:
        raise ValueError("there are no images to count document frequencies in")
    ngrams, images = _document_frequencies(corpus)
    seed, owner = _place(ngrams)
    taken = owner >= 0
    slots = np.full((len(owner), LONGEST), -2, np.int32)
    slots[taken] = ngrams[owner[taken]]
    idf = np.zeros(len(owner))
    idf[taken] = np.log(len(corpus)) - np.log(images[owner[taken]])
    unseen = np.asarray(np.log(len(corpus)), np.float32)
    return Idf(slots, idf.astype(np.float32), unseen, np.asarray(seed, np.uint32))


def look_up(idf: Idf, words: Words) -> list[jax.Array]:
    """The idf of each n-gram of captions: float32 [T - n + 1, K, B], 0 where none begins."""
    longest = len(words.tokens)
    keys, values = jnp.asarray(idf.ngrams), jnp.asarray(idf.idf)
    beyond = jnp.full((LONGEST - 1, *words.tokens.shape[1:]), -1, jnp.int32)
    tokens = jnp.concatenate([words.tokens, beyond])
    following = jnp.stack([tokens[k : k + longest] for k in range(LONGEST)], axis=-1)
    found = []
    for n in range(1, LONGEST + 1):
        begin = following[: max(longest - n + 1, 0)]
        ngrams = jnp.where(jnp.arange(LONGEST) < n, begin, -1)
        value = jnp.broadcast_to(idf.unseen, ngrams.shape[:-1])
        for slot in _slots(ngrams, idf.seed, len(keys)):
            same = (keys[slot] == ngrams).all(axis=-1)
            value = jnp.where(same, values[slot], value)
        found.append(jnp.where(places(words, n), value, 0.0))
    return found


def _document_frequencies(corpus: Sequence[Sequence[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """N-grams of two images or more, int32 [N, L] with -1 after the end, and their images [N]."""
    captions = [caption for references in corpus for caption in references]
    lengths = np.array([len(caption) for caption in captions], np.int64)
    tokens = np.concatenate([np.zeros(0, np.int64), *captions]).astype(np.int64)
    image = np.repeat(np.repeat(np.arange(len(corpus)), list(map(len, corpus))), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))
    size = int(tokens.max(initial=0)) + 1
    start, prefix = np.arange(len(tokens)), np.zeros(len(tokens), np.int64)
    ngrams, images = [], []
    for n in range(1, LONGEST + 1):
        there = left[start] >= n
        start, prefix = start[there], prefix[there]
        # The number of the prefix and the last token number an n-gram exactly.
        _, first, number = np.unique(
            prefix * size + tokens[start + n - 1], return_index=True, return_inverse=True
        )
        pairs = np.unique(number * len(corpus) + image[start])
        count = np.bincount(pairs // len(corpus), minlength=len(first))
        often = count > 1
        rows = np.full((often.sum(), LONGEST), -1, np.int32)
        rows[:, :n] = tokens[start[first[often], None] + np.arange(n)]
        ngrams.append(rows)
        images.append(count[often])
        # What begins with an n-gram of one image is of one image.
        start, prefix = start[often[number]], number[often[number]]
    return np.concatenate(ngrams), np.concatenate(images)


def _slots(ngrams: Any, seed: Any, size: int) -> list[Any]:
    """Both slots of n-grams int32 [..., L], of NumPy or of JAX: uint32 [...] each."""
    found = []
    for function in (0, 1):
        # Far apart, so that no two n-grams have both slots in common for being alike.
        slot = (seed * np.uint32(2) + np.uint32(function)) * np.uint32(0x85EBCA6B)
        for column in range(LONGEST):
            slot = (slot ^ ngrams[..., column].astype(np.uint32)) * np.uint32(0x9E3779B1)
            slot = slot ^ (slot >> np.uint32(15))
        found.append(slot % np.uint32(size))
    return found


def _place(ngrams: np.ndarray) -> tuple[int, np.ndarray]:
    """Finds a seed and the n-gram of each slot, int64 [M], -1 if it is empty.

    Cuckoo hashing (Pagh and Rodler 2004) of all n-grams at once: who loses its slot moves to its
    other one.
    """
    size = max(5 * len(ngrams) // 2, 8)
    for seed in itertools.count():
        slots = np.stack(_slots(ngrams, np.full(1, seed, np.uint32), size)).astype(np.int64)
        owner = np.full(size, -1)
        side = np.zeros(len(ngrams), np.int64)
        homeless = np.arange(len(ngrams))
        for _ in range(500):
            wanted = slots[side[homeless], homeless]
            evicted = owner[wanted]
            owner[wanted] = homeless
            evicted = np.unique(evicted[evicted >= 0])
            homeless = np.concatenate([homeless[owner[wanted] != homeless], evicted])
            if not homeless.size:
                return seed, owner
            side[homeless] ^= 1
    raise AssertionError
