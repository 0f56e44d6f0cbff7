"""The very captions of transformers' VisionEncoderDecoder, read from its folder.

CAPJAX_EXHAUSTIVE=1 compares all settings on 200 pictures each; without it, some on 25.
"""

import itertools
import os

import jax
import numpy as np
import pytest

from capjax.pretrained.captioners.encoder_decoder import captioner, read_fields, read_variables
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.vit.read import vit_fields
from tests.helpers.references import need_torch, need_transformers

need_torch()
need_transformers()
from tests.helpers.transformers_captioners import (  # noqa: E402
    QUICK,
    check_ties,
    generate,
    logits,
    make,
    ours,
    padded,
    save_captioner,
)
from tests.helpers.transformers_vits import assert_close, pictures  # noqa: E402

EXHAUSTIVE = bool(os.environ.get("CAPJAX_EXHAUSTIVE"))
IMAGES = 200 if EXHAUSTIVE else 25
NAMES = ("projection", "num_beams", "length_penalty", "early_stopping", "max_length")
BEAMS, PENALTIES, STOPPING, LENGTHS = (1, 2, 4, 5), (0.6, 1.0, 2.0), (True, False), (16, 20)
ALL = [*itertools.product((True, False), BEAMS, PENALTIES, STOPPING, LENGTHS)]
# 200 pictures in all, and each value of each option with and without a projection.
SOME = [
    (True, 1, 1.0, False, 20),
    (True, 2, 0.6, True, 16),
    (True, 4, 2.0, False, 20),
    (True, 5, 1.0, True, 16),
    (False, 1, 1.0, True, 16),
    (False, 2, 2.0, True, 20),
    (False, 4, 1.0, False, 16),
    (False, 5, 0.6, False, 20),
]


def slow(setting):
    return pytest.param(
        *setting, marks=pytest.mark.slow(reason="one of several settings of one search")
    )


# By whether there is a projection and the penalty: how the end token is raised, so that many
# captions end and few at once.
ENDS = {
    **{(True, penalty): (11.0, 8.0) for penalty in (0.6, 1.0)},
    (True, 2.0): (16.0, 8.0),
    **{(False, penalty): (4.0, 8.0) for penalty in PENALTIES},
}


@pytest.fixture(scope="module", name="pair")
def make_pair(tmp_path_factory):
    """(theirs, our module, our variables) by make's arguments; each made once."""
    found = {}

    def pair(**fields):
        key = tuple(sorted(fields.items()))
        if key not in found:
            folder = tmp_path_factory.mktemp("model")
            theirs = make(**fields)
            save_captioner(theirs, folder)
            at = folder / "config.json"
            decoder, projection = read_fields(read_json(at), str(at))
            module = captioner(vit_fields(folder), decoder, projection=projection)
            found[key] = theirs, module, read_variables(folder)
        return found[key]

    return pair


@pytest.mark.parametrize("projection", [True, False])
def test_logits_are_transformers(pair, projection):
    apply = None
    # Of one, fields that the others have as GPT-2's are.
    fields = {} if projection else {"layer_norm_epsilon": 0.3, "n_inner": 40}
    for seed in range(3):
        theirs, module, variables = pair(seed=seed, projection=projection, **fields)
        assert ("adapter" in variables["params"]) == projection
        assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
        apply = apply or jax.jit(
            lambda v, x, t, module=module: module.apply(v, x, t, train=False).logits,
            compiler_options=QUICK,
        )
        images = pictures((16, 16), 3, seed)
        tokens = np.random.default_rng(seed).integers(0, 280, (3, 12))
        found = np.asarray(apply(variables, images, tokens[:, None]))[:, 0]
        assert_close(found, logits(theirs, images, tokens), relative=1e-4)


@pytest.mark.parametrize(
    NAMES, ALL if EXHAUSTIVE else [*SOME[::3], *map(slow, SOME[1::3] + SOME[2::3])]
)
def test_captions_are_transformers(
    pair, projection, num_beams, length_penalty, early_stopping, max_length
):
    theirs, module, variables = pair(projection=projection, end=ENDS[projection, length_penalty])
    options = {
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "max_length": max_length,
    }
    images = pictures((16, 16), IMAGES, num_beams)
    expected, scores = generate(theirs, images, **options)
    expected = padded(expected, max_length - 1)
    tokens, lengths, finished, score = ours(module, variables, images, options)
    assert check_ties(theirs, images, (tokens, score), expected, scores) <= 0.01
    if scores is not None:
        np.testing.assert_allclose(score, scores, rtol=1e-4, atol=1e-5)
    # Neither all cut at the limit, nor all ended at once, nor all the same.
    assert (finished & (lengths < max_length - 1)).mean() >= 0.3
    assert lengths.mean() >= 2
    assert len(np.unique(tokens, axis=0)) >= 5


@pytest.mark.slow(reason="of transformers alone: the settings that are compared do differ")
def test_every_option_changes_some_caption():
    theirs = make(projection=False, end=ENDS[False, 2.0])
    images = pictures((16, 16), 20, 7)
    # Early stopping matters most where long captions count for more.
    base = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "max_length": 20}
    choices = {
        "num_beams": BEAMS,
        "length_penalty": PENALTIES,
        "early_stopping": STOPPING,
        "max_length": LENGTHS,
    }
    for name, values in choices.items():
        found = [padded(generate(theirs, images, **{**base, name: v})[0], 19) for v in values]
        for one, other in itertools.combinations(found, 2):
            assert (one != other).any(), name
