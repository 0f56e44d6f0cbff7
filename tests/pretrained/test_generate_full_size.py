"""A ViT-B/16 with GPT-2 small, random: the very captions of transformers. A GB, and minutes."""

import os

import jax
import numpy as np
import pytest

from capjax.pretrained.captioners.encoder_decoder import captioner, read_fields, read_variables
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.vit.read import vit_fields
from tests.helpers.references import need_torch, need_transformers

if not os.environ.get("CAPJAX_EXHAUSTIVE"):
    pytest.skip("takes minutes: run with CAPJAX_EXHAUSTIVE=1", allow_module_level=True)

torch = need_torch()
transformers = need_transformers()
from tests.helpers.transformers_captioners import (  # noqa: E402
    check_ties,
    generate,
    logits,
    ours,
    padded,
    raise_end,
    save_captioner,
)
from tests.helpers.transformers_vits import assert_close, pictures  # noqa: E402

END = 50256


@pytest.fixture(scope="module", name="pair")
def make_pair(tmp_path_factory):
    ids = {"bos_token_id": END, "eos_token_id": END}
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(transformers.ViTConfig()),
        decoder=transformers.GPT2LMHeadModel(
            transformers.GPT2Config(add_cross_attention=True, **ids)
        ),
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
    folder = tmp_path_factory.mktemp("full")
    save_captioner(model, folder)
    decoder, projection = read_fields(read_json(folder / "config.json"), "config.json")
    module = captioner(vit_fields(folder), decoder, projection=projection)
    variables = read_variables(folder)
    (folder / "model.safetensors").unlink()
    return model, module, variables


def test_logits_are_transformers(pair):
    model, module, variables = pair
    images = pictures((224, 224), 2)
    tokens = np.random.default_rng(0).integers(0, 50257, (2, 16))
    apply = jax.jit(lambda v, x, t: module.apply(v, x, t, train=False).logits)
    found = np.asarray(apply(variables, images, tokens[:, None]))[:, 0]
    assert_close(found, logits(model, images, tokens), relative=1e-4)


@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "early_stopping", "max_length"),
    [(1, 1.0, False, 20), (2, 0.6, True, 16), (4, 1.0, False, 16), (5, 2.0, True, 20)],
)
def test_captions_are_transformers(pair, num_beams, length_penalty, early_stopping, max_length):
    model, module, variables = pair
    options = {
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "max_length": max_length,
    }
    images = pictures((224, 224), 8, num_beams)
    expected, scores = generate(model, images, **options)
    expected = padded(expected, max_length - 1, END)
    tokens, lengths, finished, score = ours(module, variables, images, options, END, {})
    print(options, lengths)
    assert check_ties(model, images, (tokens, score), expected, scores, END) <= 1 / 8
    if scores is not None:
        np.testing.assert_allclose(score, scores, rtol=1e-4, atol=1e-5)
    assert (finished & (lengths < max_length - 1)).mean() >= 0.3
    assert len(np.unique(tokens, axis=0)) >= 4
