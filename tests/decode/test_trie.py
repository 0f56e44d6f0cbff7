"""The captions that a trie allows, against the list that it was made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.decode.trie import Trie

BOS, EOS, PAD = 1, 2, 0
VOCABULARY = 9

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def captions(count, seed=0):
    """Random captions of up to 5 words; some begin alike."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(3, VOCABULARY, rng.integers(0, 6)) for _ in range(count)]
    return sorted({(*row.tolist(), EOS) for row in rows})


def test_what_may_follow_is_what_the_list_has():
    listed = captions(60)
    trie = Trie.of(reversed(listed), eos_id=EOS, vocab_size=VOCABULARY)
    assert hash(trie) == hash(Trie.of(listed, eos_id=EOS, vocab_size=VOCABULARY))
    assert trie.longest == max(map(len, listed))
    begun = {caption[:n] for caption in listed for n in range(len(caption) + 1)}
    strangers = {(*begin, token) for begin in begun for token in (0, 5, 8)} - begun
    prefixes = sorted({begin for begin in begun | strangers if len(begin) == 2}, key=str)
    history = np.full(
        (1, len(prefixes), 7), 4, np.int32
    )  # 4 is a word: what is not real is not read
    history[0, :, 0] = BOS
    history[0, :, 1:3] = prefixes
    mask = fast_jit(trie.allowed)(jnp.asarray(history), jnp.int32(3))[0]
    for prefix, row in zip(prefixes, mask, strict=True):
        following = {caption[2] for caption in listed if caption[:2] == prefix and len(caption) > 2}
        assert set(np.flatnonzero(row).tolist()) == following
        assert trie.begins(prefix) == (prefix in begun)
    first = trie.allowed(jnp.asarray(history[:, :1]), jnp.int32(1))[0, 0]
    assert set(np.flatnonzero(first).tolist()) == {caption[0] for caption in listed}
    assert mask.any()
    assert not mask.any(axis=1).all()


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], "at least one"),
        ([(4, 5)], r"\(4, 5\) must end with eos_id=2"),
        ([(4, EOS, 5, EOS)], "its only one"),
        ([()], "must end"),
        ([(4, 9, EOS)], r"\(4, 9, 2\) has ids outside the vocabulary of 9"),
        ([(-1, EOS)], "outside"),
    ],
)
def test_lists_that_hold_no_captions_are_refused(listed, message):
    with pytest.raises(ValueError, match=message):
        Trie.of(listed, eos_id=EOS, vocab_size=VOCABULARY)
