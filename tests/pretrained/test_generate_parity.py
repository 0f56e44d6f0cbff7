"""The very captions of transformers' VisionEncoderDecoder, read from its folder.

CAPJAX_EXHAUSTIVE=1 compares all settings on 200 pictures each, without it some on 25; and a
ViT-B/16 with GPT-2 small, which takes a GB and minutes.
"""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.pretrained.captioners.captioner import family_of
from capjax.pretrained.captioners.read import read_variables
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.vit.read import vit_fields
from tests.helpers.effort import sweep
from tests.helpers.references import need_torch, need_transformers

torch = need_torch()
transformers = need_transformers()
from tests.helpers.transformers_captioners import (  # noqa: E402
    QUICK,
    check_ties,
    generate,
    logits,
    make,
    ours,
    padded,
    raise_end,
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


# By whether there is a projection and the penalty: how the end token is raised, so that many
# captions end and few at once.
ENDS = {
    **{(True, penalty): (11.0, 8.0) for penalty in (0.6, 1.0)},
    (True, 2.0): (16.0, 8.0),
    **{(False, penalty): (4.0, 8.0) for penalty in PENALTIES},
}


def read_back(theirs, folder):
    """(theirs, our module, our variables), through its folder."""
    save_captioner(theirs, folder)
    at = folder / "config.json"
    family = family_of(config := read_json(at), str(at))
    fields = family.read_fields(config, str(at))
    module = family.module(vit_fields(folder), fields, fields.decoder, jnp.float32)
    variables = read_variables(folder)
    (folder / "model.safetensors").unlink()
    return theirs, module, variables


@pytest.fixture(scope="module", name="pair")
def make_pair(tmp_path_factory):
    """What is read back by make's arguments; each made once."""
    found = {}

    def pair(**fields):
        key = tuple(sorted(fields.items()))
        if key not in found:
            found[key] = read_back(make(**fields), tmp_path_factory.mktemp("model"))
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


def compare_captions(pair, images, setting, end_id=0, compiler_options=QUICK):
    """Compares the best captions; their tokens, lengths, and the share of ties that differ."""
    theirs, module, variables = pair
    options = dict(zip(NAMES[1:], setting, strict=True))
    expected, scores = generate(theirs, images, **options)
    expected = padded(expected, options["max_length"] - 1, end_id)
    tokens, lengths, finished, score = ours(
        module, variables, images, options, end_id, compiler_options
    )
    ties = check_ties(theirs, images, (tokens, score), expected, scores, end_id)
    if scores is not None:
        np.testing.assert_allclose(score, scores, rtol=1e-4, atol=1e-5)
    # Not all cut at the limit.
    assert (finished & (lengths < options["max_length"] - 1)).mean() >= 0.3
    return tokens, lengths, ties


@pytest.mark.parametrize(NAMES, ALL if EXHAUSTIVE else sweep(SOME, SOME[::3]))
def test_captions_are_transformers(
    pair, projection, num_beams, length_penalty, early_stopping, max_length
):
    found = pair(projection=projection, end=ENDS[projection, length_penalty])
    setting = num_beams, length_penalty, early_stopping, max_length
    images = pictures((16, 16), IMAGES, num_beams)
    tokens, lengths, ties = compare_captions(found, images, setting)
    assert ties <= 0.01
    # Neither all ended at once, nor all the same.
    assert lengths.mean() >= 2
    assert len(np.unique(tokens, axis=0)) >= 5


END = 50256


@pytest.fixture(scope="module", name="full")
def make_full(tmp_path_factory):
    if not EXHAUSTIVE:
        pytest.skip("takes minutes: run with CAPJAX_EXHAUSTIVE=1")
    ids = {"bos_token_id": END, "eos_token_id": END}
    decoder = transformers.GPT2Config(add_cross_attention=True, **ids)
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(transformers.ViTConfig()),
        decoder=transformers.GPT2LMHeadModel(decoder),
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.2 if parameter.ndim == 1 else 0.04, generator=generator)
            if "ln_" in name or "layernorm" in name:
                parameter += name.endswith("weight")
        # So that captions differ, between pictures and from word to word.
        model.decoder.transformer.wte.weight.mul_(2.5)
        model.decoder.transformer.wpe.weight.mul_(3)
        for block in model.decoder.transformer.h:
            block.crossattention.q_attn.weight.mul_(4)
            block.crossattention.c_attn.weight.mul_(2)
    raise_end(model, END, 11.5, 1.3)
    model.generation_config.update(**ids, decoder_start_token_id=END, pad_token_id=END)
    return read_back(model, tmp_path_factory.mktemp("full"))


def test_logits_of_full_size_are_transformers(full):
    model, module, variables = full
    images = pictures((224, 224), 2)
    tokens = np.random.default_rng(0).integers(0, 50257, (2, 16))
    apply = jax.jit(lambda v, x, t: module.apply(v, x, t, train=False).logits)
    found = np.asarray(apply(variables, images, tokens[:, None]))[:, 0]
    assert_close(found, logits(model, images, tokens), relative=1e-4)


@pytest.mark.parametrize(
    "setting", [(1, 1.0, False, 20), (2, 0.6, True, 16), (4, 1.0, False, 16), (5, 2.0, True, 20)]
)
def test_captions_of_full_size_are_transformers(full, setting):
    images = pictures((224, 224), 8, setting[0])
    tokens, _, ties = compare_captions(full, images, setting, END, {})
    assert ties <= 1 / 8
    assert len(np.unique(tokens, axis=0)) >= 4


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
