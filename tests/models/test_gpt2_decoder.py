"""GPT-2's fields, sizes and first parameters; its laws are in test_decoder_laws.py."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from capjax.config import build, checks
from capjax.config.errors import ConfigError
from capjax.data.tokenizer import train_word_tokenizer
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.gpt2 import GPT2Decoder
from configs import base, shapes_transformer


def shapes(decoder):
    model = Captioner(FeatureEncoder((1, 2)), decoder)
    found = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (2, decoder.width)))
    return traverse_util.flatten_dict(found["params"]["decoder"], sep="/")


@pytest.mark.parametrize(
    ("width", "num_layers", "num_heads", "parameters"),
    [(768, 12, 12, 124_439_808), (1024, 24, 16, 354_823_168)],
)
def test_sizes_are_the_published_ones_beside_the_attention_to_the_image(
    width, num_layers, num_heads, parameters
):
    found = shapes(GPT2Decoder(width=width, num_layers=num_layers, num_heads=num_heads))
    own = {n: s for n, s in found.items() if "cross_attention" not in n and "norms_1" not in n}
    assert sum(s.size for s in own.values()) == parameters
    assert found["tokens/embedding"].shape == (50257, width)
    assert found["positions/embedding"].shape == (1024, width)
    assert not {"bias", "output/kernel"} & found.keys()


def test_fresh_kernels_have_gpt2s_size():
    layers = 2
    decoder = GPT2Decoder(width=64, num_layers=layers, num_heads=4, vocab_size=50, max_length=20)
    model = Captioner(FeatureEncoder((1, 2)), decoder)
    params = model.init_variables(jax.random.key(0), (2, 64))["params"]["decoder"]
    flat = traverse_util.flatten_dict(params, sep="/")
    for name, leaf in flat.items():
        if name.endswith("bias"):
            assert not leaf.any()
        elif name.endswith("scale"):
            assert np.all(leaf == 1)
        else:
            ends = name.endswith(("out/kernel", "down/kernel"))
            expected = 0.02 / np.sqrt(2 * layers) if ends else 0.02
            np.testing.assert_allclose(leaf.std(), expected, rtol=0.1, err_msg=name)


def test_a_bias_that_is_not_there_can_not_start():
    with pytest.raises(ValueError, match="output_bias needs use_output_bias=True"):
        shapes(GPT2Decoder(vocab_size=2, width=8, num_heads=2, output_bias=(0.0, 1.0)))


def config(**fields):
    config = shapes_transformer.get_config()
    config.decoder = base.gpt2_decoder()
    config.decoder.update({"width": 16, "num_heads": 2, "num_layers": 1, **fields})
    return config


def test_the_config_makes_it():
    tokenizer = train_word_tokenizer(["a cat"])
    decoder = build.captioner(config(max_length=40), tokenizer).decoder
    assert isinstance(decoder, GPT2Decoder)
    assert (decoder.max_length, decoder.width, decoder.dropout) == (40, 16, 0.1)
    assert decoder.vocab_size == tokenizer.vocab_size
    assert decoder.banned == tokenizer.banned_ids
    # The section and the module agree on what GPT-2 is.
    whole = base.gpt2_decoder()
    for name in set(whole) - {"name", "dropout", "attention_dropout", "weights", "frozen"}:
        assert whole[name] == getattr(GPT2Decoder(), name), name
    with pytest.raises(
        ConfigError, match=r"config\.decoder\.activation='glue' is not an activation"
    ):
        build.captioner(config(activation="glue"), tokenizer)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "decoder.width=0 must be 1 to 65536"),
        ({"num_heads": 3}, "decoder.num_heads=3 must divide width=16"),
        ({"epsilon": -1.0}, "decoder.epsilon=-1.0 must be 0 or more"),
        ({"dropout": 1.0}, "decoder.dropout=1.0 must be 0, or lie in 1/256"),
        ({"max_length": 12}, "decoder.max_length=12 must be at least config.dataset.max_length="),
        ({"max_length": 24}, ""),
    ],
)
def test_what_it_can_not_be_is_refused(fields, message):
    made = config(**fields)
    made.dataset.max_length, made.decoding.max_length = 20, 13
    if not message:
        checks.check(made)
        return
    with pytest.raises(ConfigError) as caught:
        checks.check(made)
    assert f"config.{message}" in str(caught.value)


def test_a_search_may_be_as_long_as_its_positions():
    made = config(max_length=30)
    made.decoding.max_length = 31
    checks.check_decoding(made.decoding, made)
    made.decoding.max_length = 32
    with pytest.raises(ConfigError, match="in 2 to 31, one more than max_length=30 of the model"):
        checks.check_decoding(made.decoding, made)


def test_its_frozen_embeddings_would_freeze_the_output(tmp_path):
    made = config()
    made.word_vectors.update({"file": str(tmp_path / "v.txt"), "frozen": True})
    (tmp_path / "v.txt").write_text("a 1\n")
    with pytest.raises(ConfigError, match="would freeze the output layer, which is the embedding"):
        checks.check(made)
