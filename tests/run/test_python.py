"""`capjax.load(...)` in Python: one image or many, and decoding settings."""

import numpy as np
import pytest
from PIL import Image

import capjax
from capjax.config.errors import ConfigError
from capjax.data.images import ImageError


@pytest.fixture(scope="module", name="path")
def make_path(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("image") / "0.png"
    Image.fromarray(pixels).save(path)
    return path


def test_one_image_has_one_caption_and_a_list_a_list(run, path):
    (expected,) = run.caption([path])
    with Image.open(path) as image:
        for one in (str(path), path, path.read_bytes(), image, np.asarray(image)):
            assert run.caption(one) == expected
        assert run.caption(np.asarray(image)[None]) == [expected]
    assert run.score(path, "a b") == run.score([path], ["a b"])[0]
    assert run.score(path, ["a b", "c"]) == run.score([path], [["a b", "c"]])[0]
    with pytest.raises(ImageError, match=r"uint8 \[4, 5, 4\] is not taken"):
        run.caption(np.zeros((4, 5, 4), np.uint8))


def test_decoding_settings_are_those_of_the_command_line(run, path):
    greedy = run.caption(path, method=capjax.BeamSearch(1, 1.0, False, 6))
    for name in ("num_beams", "beam_size"):
        assert run.caption(path, **{name: 1}, length_penalty=1.0, max_length=6) == greedy
    drawn = run.caption(path, method=capjax.Sampling(2.0, 6, seed=3))
    assert run.caption(path, temperature=2.0, seed=3, max_length=6) == drawn


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beam": 3}, "no setting 'num_beam': did you mean num_beams"),
        ({"num_beams": "3"}, "config.decoding.num_beams='3' must be"),
        ({"num_beams": 3, "method": capjax.Sampling(1.0, 6)}, "num_beams, not both"),
    ],
)
def test_wrong_settings_are_named(run, path, settings, message):
    with pytest.raises(ConfigError, match=message):
        run.caption(path, **settings)


def test_a_run_is_shown_in_one_line(run):
    assert repr(run).startswith("<Run of ")
    assert len(repr(run)) < 100
    assert capjax.__version__[0].isdigit()
