"""The captions that a trie allows, against the list that it was made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.decode.beam import beam_search
from capjax.decode.constrained import constrained_beam_search
from capjax.decode.diverse import diverse_beam_search
from capjax.decode.processors import Processors
from capjax.decode.sampling import sample
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


def search(method, decoder, images, width, listed, *arguments, **options):
    """(tokens up to the end, score) of each caption of each image, only captions of the list."""
    trie = Trie.of(listed, eos_id=EOS, vocab_size=VOCABULARY)
    options |= {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "max_length": 7}
    options["processors"] = Processors(allowed=trie)

    def run(carry):
        return method(decoder.step, carry, *arguments, **options)

    result = jax.tree.map(np.asarray, fast_jit(run)(decoder.carry(images, width)))
    return [
        [
            (tuple(tokens[:length].tolist()), score)
            for tokens, length, score in zip(
                result.tokens[row], result.lengths[row], result.scores[row], strict=True
            )
            if length
        ]
        for row in range(len(images))
    ]


def test_as_many_beams_as_captions_find_the_list_in_order(toy):
    decoder = toy(VOCABULARY, seed=51)
    listed, images = captions(30, seed=1), np.arange(8)
    found = search(beam_search, decoder, images, len(listed), listed, num_beams=len(listed))
    for image, ours in zip(images, found, strict=True):
        expected = [
            (caption, sum(each) / len(each))
            for caption in listed
            for each in [
                [decoder.log_probs(image, (BOS, *caption[:t]))[w] for t, w in enumerate(caption)]
            ]
        ]
        expected.sort(key=lambda each: -each[1])
        assert [caption for caption, _ in ours] == [caption for caption, _ in expected]
        np.testing.assert_allclose([s for _, s in ours], [s for _, s in expected], rtol=1e-5)


SEARCHES = {
    "narrow": (beam_search, {"num_beams": 4}),
    "greedy": (beam_search, {"num_beams": 1}),
    "diverse": (
        diverse_beam_search,
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    ),
    "constrained": (constrained_beam_search, {"num_beams": 4, "constraints": ((5,),)}),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_no_search_leaves_the_list(toy, name):
    method, options = SEARCHES[name]
    listed = captions(60)
    decoder = toy(VOCABULARY, seed=52)
    found = search(method, decoder, np.arange(24), options["num_beams"], listed, **options)
    for row in found:
        assert row
        assert all(caption in listed for caption, _ in row)
    assert len({row[0][0] for row in found}) > 5


def test_no_sample_leaves_the_list(toy):
    listed = captions(60)
    decoder = toy(VOCABULARY, seed=53)
    found = search(
        sample, decoder, np.arange(24), 3, listed, jax.random.key(0), temperature=2.0, top_p=0.9
    )
    assert {caption for row in found for caption, _ in row} <= {*listed}
    assert len({caption for row in found for caption, _ in row}) > 10


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
