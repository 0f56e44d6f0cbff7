"""What transformers has no parts for is refused by the config's field."""

import jax
import numpy as np
import pytest

from capjax.cli.export import main
from capjax.config import build
from capjax.data.tokenizer import train_word_tokenizer
from capjax.models.encoders.vit import ViT
from capjax.pretrained.captioners.exportable import exportable
from capjax.pretrained.captioners.generation_file import Generation
from capjax.pretrained.errors import ExportError
from configs import base

TOKENIZER = train_word_tokenizer(["a cat"])


def make_config():
    config = base.get_config()
    config.dataset.image_size = 16
    config.encoder.update(width=16, depth=1, num_heads=2)
    config.decoder = base.gpt2_decoder()
    config.decoder.update(width=16, num_layers=1, num_heads=2, max_length=24)
    return config


def refused(config):
    model = build.captioner(config, TOKENIZER)
    with pytest.raises(ExportError) as caught:
        exportable(model, {"params": {}}, TOKENIZER, build.resize(config.dataset), Generation())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (base.bahdanau_decoder, "config.decoder.name: a BahdanauDecoder is nothing that transform"),
        (base.transformer_decoder, "config.decoder.tie_embeddings=False is no GPT-2's, which"),
    ],
)
def test_other_decoders_are_refused(decoder, message):
    config = make_config()
    config.decoder = decoder()
    assert message in refused(config)


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [("norm", "post", "'pre'"), ("use_output_bias", True, "False"), ("head_dim", 4, "8")],
)
def test_a_decoder_that_is_no_gpt2_is_refused(field, value, instead):
    config = make_config()
    config.decoder[field] = value
    assert refused(config) == (
        f"config.decoder.{field}={value!r} is no GPT-2's, which transformers has; it must be "
        f"{instead}, as all fields of base.gpt2_decoder() are"
    )


def test_a_transformer_with_the_fields_of_a_gpt2_is_one():
    config = make_config()
    gpt2 = build.captioner(config, TOKENIZER)
    config.decoder = base.transformer_decoder()
    config.decoder.update(width=16, num_layers=1, num_heads=2)
    config.decoder.update(tie_embeddings=True, use_output_bias=False, epsilon=1e-5)
    config.decoder.attention_dropout = 0.1
    model = build.captioner(config, TOKENIZER)
    resize = build.resize(config.dataset)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), build.shapes(config, model))
    found, expected = (
        exportable(m, variables, TOKENIZER, resize, Generation()).fields.decoder
        for m in (model, gpt2)
    )
    assert found == expected


@pytest.mark.parametrize("encoder", [base.conv_encoder, base.resnet])
def test_other_encoders_are_refused(encoder):
    config = make_config()
    config.encoder = encoder()
    assert "is nothing that transformers' captioners have; 'patch' and 'vit' export" in refused(
        config
    )


def test_widths_and_adapters_that_they_do_not_have_are_refused():
    config = make_config()
    config.decoder.width = 24
    assert refused(config) == (
        "config.encoder.width=16 is not config.decoder.width=24, between which transformers has a "
        "projection; config.adapter may be one: base.adapter() with norms=False, activation='', "
        "positions='none', depth=0, width=24"
    )
    config.adapter = base.adapter()
    right = {"norms": False, "positions": "none", "width": 24}
    config.adapter.update(right)
    wrong = {"norms": True, "positions": "sincos", "width": 16, "activation": "relu", "depth": 1}
    for name, value in wrong.items():
        config.adapter[name] = value
        assert f"config.adapter.{name}={value!r} is not transformers' projection" in refused(config)
        config.adapter[name] = {**right, "activation": "", "depth": 0}[name]
    config.encoder.width = 24
    assert "config.adapter.width=24 is config.encoder.width, too, where transf" in refused(config)


def test_the_command_line_says_in_one_line_what_is_wrong(small_run, tmp_path):
    def message(to):
        with pytest.raises(SystemExit) as caught:
            main(["--workdir", str(small_run), "--to", str(to)])
        return caught.value.code

    assert message(tmp_path / "out").startswith("error: config.decoder.tie_embeddings=False is no ")
    assert not [*tmp_path.iterdir()]
    assert message(small_run).startswith(f"error: {small_run} is there already; give a folder tha")


def test_positions_are_brought_to_the_pictures_grid():
    """Which current releases of transformers do not do by themselves."""
    config = make_config()
    fields = {"patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
    config.encoder = base.vit()
    config.encoder.update(fields, position_grid=(5, 4))
    config.dataset.image_size = 31
    model, resize = build.captioner(config, TOKENIZER), build.resize(config.dataset)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype("f"), build.shapes(config, model)
    )
    found = exportable(model, variables, TOKENIZER, resize, Generation())
    assert found.encoder["position_grid"] == (3, 3)
    images = rng.integers(0, 256, (2, 31, 31, 3), np.uint8)

    def memory(encoder, params):
        apply = jax.jit(lambda p, x: encoder.apply({"params": p}, x, train=False).values)
        return apply(params, images)

    np.testing.assert_allclose(
        memory(ViT(**found.encoder), found.variables["params"]["encoder"]),
        memory(model.encoder, variables["params"]["encoder"]),
        rtol=1e-5,
        atol=1e-5,
    )
