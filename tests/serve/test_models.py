"""A run and an artefact behind the server: captions as without it, settings, limits."""

import json
import sys

import jax
import numpy as np
import pytest

import capjax
from capjax.serve import page
from capjax.serve.batching import Batcher
from capjax.serve.runs import ServedRun
from capjax.serve.served import SettingsError, doubled
from tests.helpers.command_line import python
from tests.helpers.served import caption, png, running
from tests.helpers.small_run import write_untrained_run


@pytest.fixture(scope="module", name="run")
def load_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_untrained_run(folder)
    return capjax.load(folder)


@pytest.fixture(scope="module", name="served")
def serve_run(run):
    return ServedRun("small", run, most_beams=4, most_length=9)


@pytest.fixture(scope="module", name="images")
def draw():
    rng = np.random.default_rng(0)
    return [png(rng.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((16, 16), (20, 30), (9, 4))]


@pytest.fixture(scope="module", name="port")
def serve(served):
    with running([served], batch_size=1) as (port, _):  # Few sizes, since each is compiled.
        yield port


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3, "num_captions": 2}, {"temperature": 1, "seed": 3}]
)
def test_captions_are_those_of_the_run(run, port, images, settings):
    status, _, answer = caption(port, *images, settings=settings)
    assert status == 200
    for row, known in zip(
        answer["results"], run.caption(images, batch_size=1, **settings), strict=True
    ):
        assert row["caption"] == known.text
        assert row["log_prob"] == pytest.approx(known.log_prob, abs=1e-5)
        assert row["words"] == [*known.words]
        assert len(row["tokens"]) == len(known.words)
        assert [other["caption"] for other in row.get("alternatives", ())] == [
            other.text for other in known.alternatives
        ]
        assert "attention" not in row
    used = answer["decoding"]
    assert used["method"] == ("sample" if "seed" in settings else "beam")
    assert {name: used[name] for name in settings} == settings


def test_attention_is_given_where_it_is_asked_for(run, port, images):
    status, _, answer = caption(port, images[0], query="?attention=1")
    assert status == 200
    (row,) = answer["results"]
    assert "".join(row["pieces"]) == row["caption"]
    assert row["attention"][:2] == [2, 2]
    assert row["caption"] == run.caption(images[0], batch_size=1).text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 5}, "num_beams=5 must be at most 4"),
        ({"num_beams": "3"}, "config.decoding.num_beams='3' must be a whole number"),
        ({"num_beams": True}, "config.decoding.num_beams=True must be a whole number"),
        ({"num_beams": 0}, "config.decoding.num_beams=0 must be 1 or more"),
        ({"max_length": 10}, "max_length=10 must be at most 9"),
        ({"num_captions": 3}, "num_captions=3 must be at most num_beams=2"),
        ({"temperature": -1}, "temperature=-1.0 must be 0 or more"),
        ({"num_beam": 3}, "there is no setting 'num_beam': did you mean num_beams?"),
        ({"rewards": ["os"]}, "rewards can't be set by clients"),
        ({"method": "consensus"}, "method='consensus' is not served"),
        ({"prompt": "zebra"}, "prompt"),
        ({"prompt": ["a"]}, "config.decoding.prompt=('a',) must be text"),
        ({"bad_words": ["a"] * 99}, "bad_words has 99 words; 32 are taken"),
        ({"bad_words": [{}]}, "config.decoding.bad_words=({},) must be a tuple"),
        ({"length_penalty": {}}, "config.decoding.length_penalty"),
        ({"seed": 10**400}, "config.decoding.seed"),
    ],
)
def test_settings_are_refused_in_the_configs_words(served, settings, message):
    with pytest.raises(SettingsError) as refused:
        served.method(settings)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_words_can_be_text_with_commas(served):
    assert served.described(served.method({"bad_words": "a, b"}))["bad_words"] == ("a", "b")
    assert served.method({"num_beams": None}) == served.method({})


def test_settings_are_described_with_their_limits(served):
    told = {setting["name"]: setting for setting in served.settings()}
    assert told["num_beams"]["least"] == 1
    assert told["num_beams"]["most"] == 4
    assert told["method"]["choices"] == ["beam", "sample"]
    assert told["bad_words"]["kind"] == "str"
    json.dumps(told, allow_nan=False)


def test_methods_that_share_a_program_are_of_one_kind(served):
    kinds = {served.kind(served.method({"temperature": t, "seed": t})) for t in (1, 2)}
    assert len(kinds) == 1
    assert served.kind(served.method({"num_beams": 1})) != served.kind(served.method({}))


def test_an_image_without_a_finite_log_probability_has_an_error(run):
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), run.variables)
    bad = capjax.Run(run.config, run.tokenizer, run.model, broken, 0)
    program = ServedRun("bad", bad, most_beams=4, most_length=9).program(attention=False)
    pixels, index = np.zeros((2, 16, 16, 3), np.uint8), np.array([0, 1], np.int32)
    found = program(bad.method(), pixels, index)
    assert ["NaN" in str(error) for error in found] == [True, True]


def test_what_the_page_asks_for_fits_the_model(served):
    captions, samples = page.usual(served)
    assert captions == {"num_captions": 2}  # It has two beams.
    assert served.method(samples).num_captions == 4


def test_sizes_double():
    assert doubled(16) == [1, 2, 4, 8, 16]
    assert doubled(6) == [1, 2, 4, 6]
    assert doubled(1) == [1]
    assert doubled(10, unit=4) == [4, 8, 12]


ALONE = """
import importlib.abc, json, sys
HIDDEN = ("flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "ml_collections")

class Hides(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hides())
from capjax.serve.open import open_models
from tests.helpers.served import caption, running

models = open_models(sys.argv[1:2], checkpoint="best", most_beams=1, most_length=2)
with running(models, batch_size=1) as (port, _):
    images = [open(name, "rb").read() for name in sys.argv[2:]]
    answers = [caption(port, *images), caption(port, images[0], query="?attention=1")]
    answers.append(caption(port, images[0], settings={"num_beams": 3}))
print(json.dumps([[status, content] for status, _, content in answers]))
"""


@pytest.mark.slow(reason="exports another artefact; its runner is without capjax every day")
def test_an_artefact_is_served_without_what_training_needs(run, images, tmp_path):
    from capjax.artefact.write import write_artefact

    write_artefact(run, tmp_path / "artefact", platforms=("cpu",), attention=True)
    files = [tmp_path / f"{place}.png" for place in range(len(images))]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    done = python("-c", ALONE, tmp_path / "artefact", *files, PYTHONPATH=":".join(sys.path))
    assert done.returncode == 0, done.stderr
    plain, attended, refused = json.loads(done.stdout.splitlines()[-1])
    known = run.caption(images, attention=True)
    assert [row["caption"] for row in plain[1]["results"]] == [each.text for each in known]
    assert attended[1]["results"][0]["attention"][:2] == [*known[0].grid]
    assert refused[0] == 400
    assert "there is no setting 'num_beams'" in refused[1]["error"]


def test_a_model_that_does_not_compile_is_no_server(served):
    class Broken:
        def __getattr__(self, name):
            return getattr(served, name)

        def program(self, *, attention):
            def fail(*_):
                raise MemoryError("too large")

            return fail

    with pytest.raises(MemoryError):
        Batcher([Broken()], batch_size=2, kept=1)
