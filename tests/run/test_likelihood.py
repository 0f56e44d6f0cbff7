"""Log-probabilities of given captions: those of teacher forcing and of the search."""

import json

import numpy as np
import pytest
from PIL import Image

from capjax.cli import score
from capjax.data.batches import lay_out
from capjax.data.dataset import Foil
from capjax.parallel import devices
from capjax.run.foils import foil_metrics
from capjax.run.likelihood import ScoreError, encode_given
from capjax.run.retrieval import recalls
from capjax.train.objective import teacher_forced
from tests.helpers.small_run import write_untrained_run


@pytest.fixture(scope="module", name="images")
def make_images():
    return list(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8))


CAPTIONS = ["a b", ["c d e", "f", "a b c d e f g h"], "p o n", ["b", "zzz b", "a"], []]


def test_scores_are_those_of_teacher_forcing(run, images):
    scored = run.score(images, CAPTIONS)
    assert [isinstance(found, list) for found in scored] == [
        isinstance(given, list) for given in CAPTIONS
    ]
    texts = [[given] if isinstance(given, str) else given for given in CAPTIONS]
    encoded = [encode_given(run.tokenizer, many, run.model) for many in texts]
    tokens, lengths = lay_out(encoded, 3, 9, run.tokenizer)
    batch = {"image": np.stack(images), "tokens": tokens, "lengths": lengths}
    nll = np.asarray(teacher_forced(run.model, run.variables, batch)[1].nll)
    total = 0.0
    for row, found in enumerate(scored):
        for column, caption in enumerate([found] if isinstance(CAPTIONS[row], str) else found):
            wanted = -nll[row, column, : lengths[row, column]]
            given = [value or 0.0 for value in caption.log_probs]
            np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-5)
            assert caption.log_prob == pytest.approx(wanted.sum(), rel=1e-5)
            assert len(caption.tokens) == len(caption.log_probs)
            total += caption.log_prob
    assert total == pytest.approx(-nll.sum(), rel=1e-5)


def test_a_searched_caption_has_the_score_that_the_search_gave_it(run, images):
    searched = run.caption(images)
    scored = run.score(images, [caption.text for caption in searched])
    for caption, found in zip(searched, scored, strict=True):
        # A caption that was cut at the limit has no end.
        values = found.log_probs if caption.finished else found.log_probs[:-1]
        assert sum(values) == pytest.approx(caption.log_prob, abs=1e-4)


def test_a_word_that_cannot_be_said_has_no_score(run, images):
    (found,) = run.score(images[:1], ["zzz a"])
    assert found.log_probs[0] is None
    assert found.log_prob == pytest.approx(sum(found.log_probs[1:]))


def test_every_caption_with_every_image_is_what_each_pair_gets(run, images):
    captions = ["a b", "c", "d e f g"]
    pairs = run.score(images, [captions] * len(images))
    wanted = [[caption.log_prob for caption in many] for many in pairs]
    np.testing.assert_allclose(run.score_all(images, captions), wanted, rtol=1e-5)
    halves = run.score_all(images, captions, batch_size=2)
    np.testing.assert_allclose(halves, wanted, rtol=1e-5)


def test_what_cannot_be_scored_is_named(run, images):
    with pytest.raises(ScoreError, match=r"'a a a .* has 40 tokens, and this model can be fed 23"):
        run.score(images[:1], ["a " * 40])
    with pytest.raises(ValueError, match="1 images and captions for 2"):
        run.score(images[:1], ["a", "b"])


def test_recalls_of_a_known_ranking():
    # Image 1's first caption is likelier with image 0; captions 2 and 3 are common.
    scores = np.array([[-1.0, -2.0, -1.0, -9.0], [-9.0, -3.0, -1.5, -5.0]])
    found = recalls(scores, np.array([0, 1, 1, 1]))
    assert found["image_recall@1"] == 0.5
    assert found["image_recall@5"] == 1.0
    assert found["caption_recall@1"] == 1.0
    assert found["image_median_rank"] == 1.5


def test_foils_are_told_by_which_is_likelier(run, images):
    ids = [f"image {index}" for index in range(len(images))]
    told = run.score_all(images, ["a b", "c d"])
    foils = [Foil(ids[i], "kind", "a b", "c d") for i in (0, 2)]
    foils += [Foil(ids[3], "novel_kind", "c d", "c d")]
    batch = {"image": np.stack(images[:4]), "index": np.arange(4, dtype=np.int32)}
    variables = devices.replicate(run.variables)
    found = foil_metrics(run.model, run.tokenizer, variables, [batch], ids, foils)
    right = (told[:, 0] > told[:, 1]).astype(float)
    assert found["foil_accuracy"] == found["foil_accuracy_kind"] == (right[0] + right[2]) / 2
    assert found["foil_accuracy_novel"] == 0.5  # A tie.
    # Image 3 stands in for image 2, which stands in for image 0.
    assert found["shuffled_foil_accuracy"] == (right[2] + right[3]) / 2
    assert found["foils_kind"] == 2
    assert found["foils_novel_kind"] == 1


def test_the_command_ranks_and_scores_a_table(run, images, tmp_path, capsysbinary):
    directory = tmp_path / "run"
    write_untrained_run(directory)
    names = [str(tmp_path / f"{index}.png") for index in range(3)]
    for name, pixels in zip(names, images, strict=False):
        Image.fromarray(pixels).save(name)
    common = ["--workdir", str(directory), "--compilation_cache", ""]
    score.main([*common, "--caption", "a b", "--json", *names])
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert {row["image"] for row in rows} == set(names)
    values = [row["log_prob"] for row in rows]
    assert values == sorted(values, reverse=True)
    table = tmp_path / "pairs.csv"
    lines = [f"{name},a b" for name in names]
    table.write_text("\n".join(["image,caption", *lines]) + "\n")
    score.main([*common, "--file", str(table)])
    found = capsysbinary.readouterr().out.decode().splitlines()
    by_name = {row["image"]: row["log_prob"] for row in rows}
    assert [line.split("\t")[0] for line in found] == [f"{by_name[name]:.3f}" for name in names]
    with pytest.raises(SystemExit) as ended:
        score.main([*common, names[0]])
    assert ended.value.code == 2
