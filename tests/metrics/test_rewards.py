"""Rewards of token ids: against pycocoevalcap, and what they must not depend on."""

import collections
import csv
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test

from capjax.data import tokenizer_kinds
from capjax.metrics import ngrams
from capjax.metrics.reward import WeightedSum, reference_ids
from capjax.metrics.rewards.bleu4 import Bleu4
from capjax.metrics.rewards.cider_d import CiderD
from tests.helpers.cider import EOS, official, pad

SHARED = Path(__file__).parents[3] / "shared" / "flickr8k"
IMAGES, SAMPLES, REFERENCES, LENGTH = 9, 3, 4, 9


def draw(seed, images, each, longest=LENGTH - 1, words=5):
    """Captions by image, "words ... eos", of a few words: with repeats, empty and of one word."""
    rng = np.random.default_rng(seed)
    return [
        [
            np.array([*rng.integers(3, 3 + words, rng.integers(0, longest + 1)), EOS])
            for _ in range(each)
        ]
        for _ in range(images)
    ]


def text(ids, end_token):
    return " ".join(map(str, ids if end_token else ids[ids != EOS]))


def texts(captions, end_token):
    return [[text(ids, end_token) for ids in own] for own in captions]


SAID = draw(0, IMAGES, SAMPLES)
GIVEN = draw(1, IMAGES, REFERENCES)
CORPUS = draw(2, 30, 3)


def scores(reward, said=SAID, given=GIVEN, corpus=CORPUS, length=LENGTH, beyond=0):
    table = reward.prepare(corpus, eos_id=EOS, vocab_size=8)
    arrays = *pad(said, length, beyond), *pad(given, length, beyond)
    return np.asarray(jax.jit(reward.__call__)(table, *arrays))


@pytest.mark.parametrize("end_token", [True, False])
@pytest.mark.parametrize("corpus", [None, CORPUS], ids=["own idf", "idf of a corpus"])
def test_cider_d_equals_pycocoevalcap(end_token, corpus):
    found = scores(CiderD(end_token), corpus=corpus or GIVEN)
    given = texts(GIVEN, end_token)
    counted = corpus and texts(corpus, end_token)
    for k in range(SAMPLES):
        said = [text(own[k], end_token) for own in SAID]
        np.testing.assert_allclose(found[:, k], official(said, given, counted), atol=1e-5)
    assert found.min() < 0.5 < 2 < found.max()


def bleu4(said, given):
    """Smoothed BLEU-4 from pycocoevalcap's counts of one caption."""
    found = cook_test(said, cook_refs(given), eff="closest")
    if not found["testlen"]:
        return 0.0
    matches, guess = np.array(found["correct"]), np.array(found["guess"])
    smooth = np.array([0, 1, 1, 1])
    precision = np.prod((matches + smooth) / (guess + smooth)) ** 0.25
    return precision * np.exp(min(0, 1 - found["reflen"] / found["testlen"]))


@pytest.mark.parametrize("end_token", [True, False])
def test_bleu4_has_the_counts_of_pycocoevalcap(end_token):
    found = scores(Bleu4(end_token))
    expected = [
        [bleu4(text(ids, end_token), given) for ids in own]
        for own, given in zip(SAID, texts(GIVEN, end_token), strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.max() > 0.5


REWARDS = (CiderD(), Bleu4())


@pytest.mark.parametrize("reward", REWARDS, ids=str)
def test_padding_order_and_the_rest_of_a_batch_change_nothing(reward):
    plain = scores(reward)
    for beyond in (4, EOS):
        np.testing.assert_allclose(scores(reward, beyond=beyond), plain, atol=1e-6)
    backwards = [own[::-1] for own in GIVEN]
    np.testing.assert_allclose(scores(reward, given=backwards), plain, atol=1e-6)
    # One image alone, with words after its captions' first end tokens and rows for more references.
    late = [[np.array([*ids, 4, EOS, 5]) for ids in own] for own in SAID[2:3]]
    more = [[[], *own, []] for own in GIVEN[2:3]]
    alone = scores(reward, said=late, given=more, length=LENGTH + 4, beyond=3)
    np.testing.assert_allclose(alone, plain[2:3], atol=1e-6)


@pytest.mark.parametrize("reward", REWARDS, ids=str)
def test_no_caption_and_short_ones_have_a_number(reward):
    found = scores(reward, said=[[[], [3], [3, EOS]], [[3], [], []]], given=[[[3, EOS]], [[]]])
    assert np.isfinite(found).all()
    assert found[0, 0] == 0
    assert (found[1] == 0).all()
    assert found[0, 2] == found[0].max() > 0
    table = reward.prepare(CORPUS, eos_id=EOS, vocab_size=8)
    run = jax.jit(reward.__call__)
    for length in (1, 3):  # Shorter than the longest n-gram.
        found = run(table, *pad([[[3, 4, EOS][:length]]], length), *pad([[[3, EOS]]], 2))
        assert 0 < found[0, 0] < np.inf


def test_a_caption_that_breaks_off_has_less_with_the_end_token():
    said = [[[3, 4, 5, EOS], [3, 4, 5]]]
    given = [[[3, 4, 5, EOS]]]
    whole, broken = scores(CiderD(), said=said, given=given)[0]
    assert whole > broken + 1
    np.testing.assert_allclose(*scores(CiderD(end_token=False), said=said, given=given)[0])


def test_a_sum_of_rewards():
    both = WeightedSum((CiderD(), Bleu4()), (0.5, -2.0))
    expected = 0.5 * scores(CiderD()) - 2 * scores(Bleu4())
    np.testing.assert_allclose(scores(both), expected, atol=1e-6)
    with pytest.raises(ValueError, match="1 weights of 2 rewards"):
        WeightedSum((CiderD(), Bleu4()), (1.0,))


def test_each_ngram_is_looked_up_exactly():
    # Half of 40 words are neighbours and half differ in high bits, and nearly all slots are tried.
    rng = np.random.default_rng(3)
    words = np.array([*range(20), *(2 ** rng.integers(20, 30, 20) + np.arange(20))])
    corpus = [[words[rng.integers(0, 40, 12)] for _ in range(3)] for _ in range(200)]
    idf = ngrams.prepare_idf(corpus)
    images = collections.Counter(
        gram
        for own in corpus
        for gram in {
            tuple(ids[i : i + n]) for ids in own for n in range(1, 5) for i in range(13 - n)
        }
    )
    captions = [own[:1] for own in corpus] + [[words[rng.integers(0, 40, 12)]] for _ in range(200)]
    tokens, lengths = pad(captions, 12)
    said = ngrams.words_of(tokens, lengths, -9, end_token=True, reference=False)
    for n, found in enumerate(jax.jit(ngrams.look_up)(idf, said), start=1):
        expected = [
            [np.log(200 / max(images[tuple(ids[i : i + n])], 1)) for i in range(13 - n)]
            for (ids,) in captions
        ]
        np.testing.assert_allclose(found[:, 0].T, expected, atol=1e-6)
    # N-grams of one image, most of all here, need no slot.
    assert (idf.ngrams[:, 0] != -2).sum() == sum(count > 1 for count in images.values())
    with pytest.raises(ValueError, match="no images"):
        ngrams.prepare_idf([])


def test_unknown_words_have_ids_of_their_own():
    tokenizer = tokenizer_kinds.train(["a dog runs", "a dog"], min_count=2)
    words = {}
    first, second = reference_ids(tokenizer, ["A zebra runs, a dog runs", "dog"], words)
    a, dog = tokenizer.encode("a dog")
    new = tokenizer.vocab_size
    assert first.tolist() == [a, new, new + 1, a, dog, new + 1, tokenizer.eos_id]
    assert second.tolist() == [dog, tokenizer.eos_id]
    (again,) = reference_ids(tokenizer, ["the zebra"], words)
    assert again.tolist() == [new + 2, new, tokenizer.eos_id]
    assert words == {"zebra": new, "runs": new + 1, "the": new + 2}
    pieces = tokenizer_kinds.train(["a dog runs", "a dog"], kind="bpe", max_words=20)
    (ids,) = reference_ids(pieces, ["a dxg zx"])
    x, z = pieces.vocab_size, pieces.vocab_size + 1
    assert [i for i in ids if i >= pieces.vocab_size] == [x, z, x]


@functools.cache
def flickr8k():
    """Captions by image, and the images of the train split."""
    if not SHARED.exists():
        pytest.skip("no shared/flickr8k beside the repository")
    captions = collections.defaultdict(list)
    with (SHARED / "captions.txt").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions[row["image"]].append(row["caption"])
    return captions, (SHARED / "Flickr_8k.trainImages.txt").read_text().split()


@functools.cache
def as_ids(**options):
    """A tokenizer of the train split, the ids of each caption by image, and unknown words."""
    captions, train = flickr8k()
    tokenizer = tokenizer_kinds.train([c for i in train for c in captions[i]], **options)
    unknown = {}
    ids = {i: reference_ids(tokenizer, own, unknown) for i, own in captions.items()}
    return tokenizer, ids, unknown


def one_against_the_others(reward, corpus, encoded, tokenizer):
    """Float [B] of the first caption of each image against its others."""
    table = reward.prepare(corpus, eos_id=tokenizer.eos_id, vocab_size=tokenizer.vocab_size)
    length = max(len(ids) for own in encoded for ids in own)
    hypotheses = pad([own[:1] for own in encoded], length)
    references = pad([own[1:] for own in encoded], length)
    run = jax.jit(reward.__call__)
    parts = range(0, len(encoded), 100)
    return np.concatenate(
        [run(table, *(x[i : i + 100] for x in (*hypotheses, *references)))[:, 0] for i in parts]
    )


WORDS = {"min_count": 5}


@pytest.mark.slow(reason="all captions of Flickr8k; small random ones are compared every day")
@pytest.mark.parametrize("end_token", [True, False])
def test_cider_d_equals_pycocoevalcap_on_flickr8k(end_token):
    captions, train = flickr8k()
    tokenizer, ids, unknown = as_ids(**WORDS)
    assert len(unknown) > 1000
    end = " <end>" if end_token else ""
    words = {i: [" ".join(tokenizer.split(c)) + end for c in captions[i]] for i in ids}
    encoded = [*ids.values()]
    said, given = zip(*((own[0], own[1:]) for own in words.values()), strict=True)
    for corpus, counted in (
        ([own[1:] for own in encoded], None),
        ([ids[i] for i in train], [words[i] for i in train]),
    ):
        found = one_against_the_others(CiderD(end_token), corpus, encoded, tokenizer)
        np.testing.assert_allclose(found, official(said, given, counted), rtol=0, atol=1e-5)


@functools.cache
def scored_by(**options):
    """CIDEr-D of images by the tokens of a tokenizer."""
    (tokenizer, ids, _), (_, train) = as_ids(**options), flickr8k()
    corpus = [ids[i] for i in train]
    return one_against_the_others(CiderD(), corpus, [*ids.values()], tokenizer)


@pytest.mark.slow(reason="all captions of Flickr8k; the docstring of CiderD has the numbers")
@pytest.mark.parametrize(("size", "expected"), [(1000, (0.924, 0.906)), (4000, (0.978, 0.975))])
def test_cider_d_of_pieces_of_words_goes_with_that_of_words(size, expected):
    found = [scored_by(**WORDS), scored_by(kind="bpe", max_words=size)]
    ranks = [values.argsort().argsort() for values in found]
    correlation = np.corrcoef(found)[0, 1], np.corrcoef(ranks)[0, 1]
    assert correlation == pytest.approx(expected, abs=0.01)
