"""The very captions of transformers' BLIP and GIT: each option by itself, and many together."""

import functools
import itertools
import types

import numpy as np
import pytest

from tests.helpers.effort import slow_too, sweep
from tests.helpers.references import need_torch, need_transformers

need_torch()
need_transformers()
from tests.helpers import transformers_blips, transformers_gits  # noqa: E402
from tests.helpers.family_captions import compare, read_back, see_once, theirs  # noqa: E402
from tests.helpers.transformers_vits import pictures  # noqa: E402

KINDS = {"blip": transformers_blips, "git": transformers_gits}
PROMPT = (6, 7)
BASE = {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False, "max_length": 20}
BASE |= {"prompt": (), "min_length": 0, "repetition_penalty": 1.0}
# One option at a time: its values change captions, see below.
OPTIONS = {
    "num_beams": (1, 3, 4, 5),
    "length_penalty": (0.6, 1.0, 2.0),
    "early_stopping": (False, True),
    "max_length": (20, 16),
    "prompt": ((), PROMPT),
    "min_length": (0, 8),
    "repetition_penalty": (1.0, 1.5),
}
SINGLE = [{name: value} for name, of in OPTIONS.items() for value in of if value != BASE[name]]
GREEDY = [{"num_beams": 1, **case} for case in SINGLE[-3:]]


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: of[rng.integers(len(of))] for name, of in OPTIONS.items()}


# The seeds are of combinations with most that differs from the base.
CASES = [{}, *SINGLE, *GREEDY, *(draw(seed) for seed in (3, 4, 6, 8, 9))]
DAILY = [GREEDY[-1], CASES[-1]]
# By length penalty, how much the end token is raised, with which many captions end early and many
# differ.
RAISED = {"blip": {0.6: 3.0, 1.0: 5.0, 2.0: 5.0}, "git": {0.6: 0.0, 1.0: 0.0, 2.0: 1.5}}


@pytest.fixture(scope="module", params=KINDS, name="name")
def make_name(request):
    return request.param


@pytest.fixture(scope="module", name="kind")
def make_kind(name):
    return KINDS[name]


@pytest.fixture(scope="module", name="made")
def make_models(kind, tmp_path_factory):
    """A model by how much its end token is raised, and what is read of its folder."""

    @functools.cache
    def make(mean):
        model = kind.make(end=(mean, kind.RAISED[1]))
        return model, read_back(kind, model, tmp_path_factory.mktemp("captioner"))

    return make


@pytest.mark.parametrize("case", sweep(CASES, DAILY), ids=str)
def test_captions_are_transformers(name, kind, made, case):
    number, setting = CASES.index(case), {**BASE, **case}
    images = pictures((16, 16), 100 if slow_too() else 40, number)
    model, own = made(RAISED[name][setting["length_penalty"]])
    (tokens,) = compare(kind, model, own, images, [setting])
    assert len(np.unique(tokens, axis=0)) >= 5


@pytest.mark.slow(reason="of transformers alone: the settings that are compared do differ")
def test_every_option_changes_some_caption(kind):
    model = kind.make(end=kind.RAISED)
    ids = types.SimpleNamespace(bos_id=kind.START, eos_id=kind.END)
    images = pictures((16, 16), 40, 7)

    @functools.cache
    def said(name, value):
        # Early stopping matters most where long captions count for more.
        more = {"length_penalty": 2.0} if name == "early_stopping" else {}
        setting = {**BASE, **more} | ({name: value} if name else {})
        tokens, _ = theirs(kind, model, images, ids, **setting)
        return np.pad(tokens, ((0, 0), (0, 20 - tokens.shape[1])))

    for name, values in OPTIONS.items():
        # What all options have in common is made once.
        usual = name != "early_stopping"
        found = [said(*(("", None) if usual and v == BASE[name] else (name, v))) for v in values]
        for one, other in itertools.combinations(found, 2):
            assert (one != other).any(), name


# Each option by itself is tried above, with small models.
FULL = [
    {"num_beams": 1, "repetition_penalty": 1.5, "min_length": 6},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "prompt": (1037, 3899)},
]


@pytest.mark.slow(reason="captioners of full size")
def test_captions_of_full_size_are_transformers(kind, tmp_path):
    model = kind.make_full()
    own, size = read_back(kind, model, tmp_path), model.config.vision_config.image_size
    see_once(model.get_submodule(kind.VISION))
    settings = [{**BASE, "max_length": 10, **case} for case in FULL]
    images = pictures((size, size), 2)
    # With random parameters of this size few captions differ or end.
    found = compare(kind, model, own, images, settings, ended=0.0)
    assert len({tuple(row) for tokens in found for row in tokens.tolist()}) >= 2
