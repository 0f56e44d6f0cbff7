"""The COCO scores: by hand, against pycocoevalcap's own path, and where things go wrong."""

import csv
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer import ptbtokenizer

from capjax.metrics import coco

SHARED = Path(__file__).parents[3] / "shared" / "flickr8k"

REFERENCES = {
    "beach": ["Two dogs play on the beach.", "A pair of dogs runs along the sand"],
    "bike": ["A boy rides a bike!", "The child's riding his bicycle down a hill"],
    "climb": ["A woman climbs a rock.", "Someone is climbing a steep cliff"],
}
HYPOTHESES = {
    "beach": "two dogs run on the sand .",
    "bike": "a boy is riding a bicycle",
    "climb": "a man climbs a mountain",
}


def test_bleu_takes_the_closest_reference_length_and_its_penalty() -> None:
    # Five words; references of 4 and 7: the closest is 4, so no penalty. All five words match
    # ("x" in the second reference), and two pairs of four ("a b", "b c").
    values = coco.score({1: ["a b c d", "t u v w x y z"]}, {1: "a b c x d"}, meteor=False)
    assert values["BLEU-1"] == pytest.approx(100.0)
    assert values["BLEU-2"] == pytest.approx(100 * math.sqrt(1.0 * 2 / 4))
    # Two words; references of 3 and 6: 3 is the closest, so the penalty is exp(1 - 3 / 2).
    values = coco.score({1: ["a b c", "a b c d e f"]}, {1: "a b"}, meteor=False)
    assert values["BLEU-1"] == pytest.approx(100 * math.exp(1 - 3 / 2))
    # Of two that are as close, the shorter: no penalty for four words beside 3 and 5.
    values = coco.score({1: ["a b c", "a b c d e"]}, {1: "a b c d"}, meteor=False)
    assert values["BLEU-4"] == pytest.approx(100.0)


def test_bleu_is_of_the_corpus_and_not_a_mean_over_images() -> None:
    # Matches 3 of 3 and 0 of 1: 3 / 4 of the corpus, where a mean would say 1 / 2.
    values = coco.score({1: ["a b c"], 2: ["d"]}, {1: "a b c", 2: "x"}, meteor=False)
    assert values["BLEU-1"] == pytest.approx(75.0)


def cider(references, hypotheses) -> dict:
    """CIDEr-D by image id."""
    each = coco.per_image(references, hypotheses)
    return dict(zip(each.image_ids, each.metrics["CIDEr-D"], strict=True))


def test_rouge_is_the_f_measure_of_the_longest_common_subsequence() -> None:
    # "a c" is common: precision 2 / 2, recall 2 / 4, beta 1.2.
    values = coco.score({1: ["a b c d"]}, {1: "a c"}, meteor=False)
    expected = (1 + 1.2**2) * 1.0 * 0.5 / (0.5 + 1.2**2 * 1.0)
    assert values["ROUGE-L"] == pytest.approx(100 * expected)


def test_cider_clips_and_has_a_penalty_on_length() -> None:
    # Each word is in one of two images: idf log 2 for all. To say the reference twice doubles
    # each count; clipping and the cosine's norms make each n-gram order worth less, and the
    # Gaussian has sigma 6 on a difference of 4 (coco-caption counts bigrams for the length).
    references = {1: ["a b c d"], 2: ["e f g h"]}
    once = cider(references, {1: "a b c d", 2: "e f g h"})
    twice = cider(references, {1: "a b c d a b c d", 2: "e f g h"})
    assert once == pytest.approx({1: 1000.0, 2: 1000.0})
    # Hypothesis vectors: unigrams 4 of 2; bigrams 3 of 2 and "d a"; trigrams 2 of 2, two of 1;
    # four-grams 1 of 2, three of 1. Reference vectors: ones. Seen nowhere counts as idf log 2.
    cosines = [4 / (4 * 2), 3 / math.sqrt(13 * 3), 2 / math.sqrt(10 * 2), 1 / math.sqrt(7)]
    expected = 1000 * math.exp(-(4**2) / (2 * 6**2)) * sum(cosines) / 4
    assert twice[1] == pytest.approx(expected)


def test_cider_of_one_image_is_zero() -> None:
    references, hypotheses = {7: ["a dog runs", "the dog"]}, {7: "a dog runs"}
    assert cider(references, hypotheses) == {7: 0.0}
    assert coco.score(references, hypotheses, meteor=False)["CIDEr-D"] == 0.0


@given(st.lists(st.lists(st.sampled_from(["a", "b", "a b"]), min_size=1, max_size=3), min_size=1))
def test_cider_varies_where_some_reference_has_more_than_0(references) -> None:
    images = dict(enumerate(references))
    said = max(map(len, references))
    scores = [
        max(cider(images, {i: own[k % len(own)] for i, own in images.items()}).values())
        for k in range(said)
    ]
    assert coco.cider_can_vary(references) == (max(scores) > 0)


def test_cider_of_one_image_or_of_the_same_references_can_not_vary() -> None:
    assert not coco.cider_can_vary([["a dog runs", "the dog"]])
    assert not coco.cider_can_vary([["a dog", "A cat!"], ["a cat", "a dog."]])
    assert coco.cider_can_vary([["a dog"], ["a dog", "a cat"]])


def test_keys_and_clean_output(capfd) -> None:
    values = coco.score(REFERENCES, HYPOTHESES, meteor=False)
    assert list(values) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    assert all(type(value) is float for value in values.values())
    assert capfd.readouterr() == ("", "")


def test_mean_of_the_images_is_the_score() -> None:
    each = cider(REFERENCES, HYPOTHESES)
    assert list(each) == list(REFERENCES)
    mean = sum(each.values()) / len(each)
    assert coco.score(REFERENCES, HYPOTHESES, meteor=False)["CIDEr-D"] == pytest.approx(mean)


SENTENCES = st.lists(st.sampled_from("a b c d ."), max_size=7).map(" ".join)


@given(
    st.lists(
        st.tuples(st.lists(SENTENCES.map("a {}".format), min_size=1, max_size=3), SENTENCES),
        min_size=1,
        max_size=6,
    )
)
def test_scores_of_the_images_make_those_of_the_split(images) -> None:
    references = {number: own for number, (own, _) in enumerate(images)}
    hypotheses = {number: said for number, (_, said) in enumerate(images)}
    whole = coco.score(references, hypotheses, meteor=False)
    each = coco.per_image(references, hypotheses)
    assert each.image_ids == tuple(range(len(images)))
    assert each.bleu.shape == (len(images), 9)
    found = dict(zip(coco.METRICS, coco.bleu_of(each.bleu.sum(axis=0)), strict=False))
    found |= {name: values.mean() for name, values in each.metrics.items()}
    assert found == pytest.approx(whole, rel=0, abs=1e-9)


def test_bleu_of_many_samples_is_bleu_of_each() -> None:
    bleu = coco.per_image(REFERENCES, HYPOTHESES).bleu
    samples = np.stack([bleu.sum(axis=0), bleu[0] + bleu[1], 2 * bleu[2], 0 * bleu[0]])
    together = coco.bleu_of(samples.reshape(2, 2, 9))
    assert together.shape == (2, 2, 4)
    for sample, found in zip(samples, together.reshape(4, 4), strict=True):
        np.testing.assert_array_equal(coco.bleu_of(sample), found)
    assert not together[1, 1].any()
    # "two dogs run on the sand": all but "run"; "two dogs", "on the" and "the sand" are pairs of
    # the references, which have six words and eight.
    assert bleu[0].tolist() == [5, 3, 0, 0, 6, 5, 4, 3, 6]


@pytest.mark.parametrize("empty", ["", " ", ".", "\n"])
def test_an_empty_hypothesis_scores_zero(empty: str) -> None:
    values = coco.score(REFERENCES, dict.fromkeys(REFERENCES, empty), meteor=False)
    assert values == pytest.approx(dict.fromkeys(values, 0.0), abs=1e-9)
    assert cider(REFERENCES, HYPOTHESES | {"bike": empty})["bike"] == 0.0


@given(st.permutations(list(REFERENCES)))
def test_order_of_the_images_does_not_matter(order: list[str]) -> None:
    values = coco.score(REFERENCES, HYPOTHESES, meteor=False)
    shuffled = {image_id: HYPOTHESES[image_id] for image_id in order}
    references = {image_id: REFERENCES[image_id][::-1] for image_id in order[::-1]}
    assert coco.score(references, shuffled, meteor=False) == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("function", [coco.score, coco.per_image])
@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        ({}, {}, "no images to score"),
        ({1: ["a"], 2: ["b"]}, {1: "a"}, r"hypotheses lack 1 .* 2"),
        ({1: ["a"]}, {1: "a", "dog.jpg": "b"}, r"references lack 1 .* 'dog.jpg'"),
        ({1: ["a"], 2: []}, {1: "a", 2: "b"}, r"references\[2\] is empty"),
        ({1: "a dog"}, {1: "a"}, r"references\[1\] is a string"),
        ({1: ["."], 2: [""]}, {1: "a", 2: "b"}, "no words"),
    ],
)
def test_mistakes_are_named(function, references, hypotheses, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(references, hypotheses)


def test_equals_the_official_path_on_real_captions() -> None:
    if shutil.which("java") is None:
        pytest.skip("no java: coco-caption's own tokenizer cannot run")
    if not os.access(Path(ptbtokenizer.__file__).parent, os.W_OK):
        pytest.skip("coco-caption's tokenizer writes in its own folder, which is read-only here")
    if not SHARED.exists():
        pytest.skip("no shared/flickr8k beside the repository")
    dev = (SHARED / "Flickr_8k.devImages.txt").read_text().split()
    captions: dict[str, list[str]] = {image_id: [] for image_id in dev}
    with (SHARED / "captions.txt").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.get(row["image"], []).append(row["caption"])
    references = {image_id: own[1:] for image_id, own in captions.items()}
    hypotheses = {image_id: own[0] for image_id, own in captions.items()}

    java = ptbtokenizer.PTBTokenizer()
    gts = java.tokenize({i: [{"caption": c} for c in own] for i, own in references.items()})
    res = java.tokenize({i: [{"caption": own}] for i, own in hypotheses.items()})
    official = dict(
        zip(
            ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"),
            Bleu(4).compute_score(gts, res, verbose=0)[0],
            strict=True,
        )
    )
    official["ROUGE-L"] = Rouge().compute_score(gts, res)[0]
    official["CIDEr-D"], each = Cider().compute_score(gts, res)

    values = coco.score(references, hypotheses, meteor=False)
    assert values == pytest.approx({k: 100 * v for k, v in official.items()}, rel=0, abs=1e-9)
    assert list(cider(references, hypotheses).values()) == pytest.approx(
        list(100 * each), rel=0, abs=1e-9
    )
    # A person against four others on the test split: B1 63.4, B4 21.4, CIDEr 82.3.
    assert values["BLEU-1"] == pytest.approx(63.4, abs=1.0)
    assert values["BLEU-4"] == pytest.approx(21.4, abs=1.0)
    assert values["CIDEr-D"] == pytest.approx(82.3, abs=3.0)
