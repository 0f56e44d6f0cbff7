"""The very captions of transformers' BLIP and GIT: each option by itself, and many together."""

import itertools
import types

import numpy as np
import pytest

from tests.helpers.effort import slow_too, sweep
from tests.helpers.references import need_torch, need_transformers

need_torch()
need_transformers()
from tests.helpers import transformers_blips, transformers_gits  # noqa: E402
from tests.helpers.family_captions import compare, raise_end, read_back, theirs  # noqa: E402
from tests.helpers.transformers_captioners import QUICK  # noqa: E402
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


CASES = [{}, *SINGLE, *GREEDY, *(draw(seed) for seed in range(10))]
MEANS = np.arange(-6, 9, 1.5)
DAILY = [GREEDY[-1], CASES[-1]]


@pytest.fixture(scope="module", params=KINDS, name="kind")
def make_kind(request):
    return KINDS[request.param]


def ids_of(kind):
    return types.SimpleNamespace(bos_id=kind.START, eos_id=kind.END)


@pytest.mark.parametrize("case", sweep(CASES, DAILY), ids=str)
def test_captions_are_transformers(kind, case, tmp_path):
    number, setting = CASES.index(case), {**BASE, **case}
    images = pictures((16, 16), 200 if slow_too() else 40, number)
    if slow_too():
        models = (kind.make((number + more) % 8, end=kind.RAISED) for more in range(8))
        few, ids = images[:40], ids_of(kind)
        model = next(m for m in models if raise_end(kind, m, few, ids, setting, MEANS))
    else:
        model = kind.make(0, end=kind.RAISED)
    own = read_back(kind, model, tmp_path)
    tokens = compare(kind, model, own, images, setting, QUICK)
    assert len(np.unique(tokens, axis=0)) >= 5


@pytest.mark.slow(reason="of transformers alone: the settings that are compared do differ")
def test_every_option_changes_some_caption(kind):
    model, ids = kind.make(end=kind.RAISED), ids_of(kind)
    images = pictures((16, 16), 40, 7)
    for name, values in OPTIONS.items():
        # Early stopping matters most where long captions count for more.
        given = {"length_penalty": 2.0} if name == "early_stopping" else {}
        found = []
        for value in values:
            tokens, _ = theirs(kind, model, images, ids, **{**BASE, **given, name: value})
            found.append(np.pad(tokens, ((0, 0), (0, 20 - tokens.shape[1]))))
        for one, other in itertools.combinations(found, 2):
            assert (one != other).any(), name


FULL = [
    {"num_beams": 1, "repetition_penalty": 1.5},
    {"num_beams": 3},
    {"num_beams": 4, "length_penalty": 0.6, "min_length": 6},
    {"num_beams": 5, "length_penalty": 2.0, "early_stopping": True, "prompt": (1037, 3899)},
]


@pytest.mark.slow(reason="captioners of full size")
def test_captions_of_full_size_are_transformers(kind, tmp_path):
    model = kind.make_full()
    own, size = read_back(kind, model, tmp_path), model.config.vision_config.image_size
    said = set()
    for number, case in enumerate(FULL):
        images = pictures((size, size), 4, number)
        setting = {**BASE, "max_length": 14, **case}
        # With random parameters of this size few captions differ or end.
        said |= {*map(tuple, compare(kind, model, own, images, setting, ended=0.0).tolist())}
    assert len(said) >= 2
