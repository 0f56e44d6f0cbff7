"""Folders of VisionEncoderDecoder are read whole; others are refused by file, field and tensor."""

import json
import warnings

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from capjax.config import build
from capjax.config.upgrade import upgrade_decoding
from capjax.data.resize import Resize
from capjax.evaluate.captioning import make_decode
from capjax.pretrained.captioners.read import FILES, read_captioner, read_variables
from capjax.pretrained.errors import WeightsError
from tests.helpers.read_vit import read_vit
from tests.helpers.references import need_torch, need_transformers
from tests.helpers.small_bpe import write_bpe

need_torch()
transformers = need_transformers()
from tests.helpers.transformers_captioners import MEAN, make, pixels, save_captioner  # noqa: E402
from tests.helpers.transformers_vits import fake_hub, pictures, write_flax, write_torch  # noqa: E402

END = (4.0, 8.0)


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioner")
    save_captioner(make(end=END), folder)
    write_bpe(folder)
    return folder


@pytest.fixture(name="copied")
def make_copy(folder, tmp_path):
    """The same folder, to be changed."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(folder, name, **changes):
    file = folder / name
    config = json.loads(file.read_text())
    for at, value in changes.items():
        if isinstance(value, dict):
            config[at] |= value
        else:
            config[at] = value
    file.write_text(json.dumps(config))


def test_a_folder_is_read_whole(folder):
    found = read_captioner(folder)
    assert (found.encoder["width"], found.encoder["mean"]) == (24, MEAN)
    assert (found.fields.decoder["width"], found.fields.decoder["max_length"]) == (32, 24)
    assert found.fields.adapter["width"] == 32
    assert found.resize == Resize(16, interpolation="bilinear")
    assert found.tokenizer.vocab_size == found.fields.decoder["vocab_size"] == 280
    assert found.variables["params"]["adapter"]["projection"]["kernel"].shape == (24, 32)
    encoder = read_vit(folder)[1]["params"]
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"]["encoder"], encoder)
    # The module's own, and no others.
    shapes = jax.eval_shape(
        lambda: found.module().init_variables(jax.random.key(0), found.resize.shape)
    )
    jax.tree.map(lambda s, v: np.testing.assert_equal(v.shape, s.shape), shapes, found.variables)


@pytest.mark.parametrize(
    "generation",
    [
        None,
        {"max_length": 9, "num_beams": 2, "length_penalty": 2.0, "early_stopping": True},
        {"max_new_tokens": 7, "num_beams": 3},
        {"num_beams": 3, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_length": 6},
        {"max_length": 9, "bad_words_ids": [[5], [7, 9]], "forced_bos_token_id": 3},
    ],
)
def test_its_own_settings_give_transformers_captions(copied, generation):
    """By the newer file; or by none, where transformers says 20 words and one beam."""
    file = copied / "generation_config.json"
    ids = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    file.write_text(json.dumps({**dict.fromkeys(ids, 0), **(generation or {})}))
    images = pictures((16, 16), 6)
    found = read_captioner(copied)
    section = ConfigDict(upgrade_decoding(found.generation.section()))
    method = build.decoding_method(section)
    decode = make_decode(found.module(), found.tokenizer, method, attention=False)

    @jax.jit(compiler_options={"xla_backend_optimization_level": 0})
    def caption(variables, images):
        memory = found.module().apply(variables, images, method="encode")
        return decode(variables, memory, np.arange(len(images))).tokens[:, 0]

    theirs = transformers.VisionEncoderDecoderModel.from_pretrained(copied).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(pixel_values=pixels(images)).numpy()[:, 1:]
    tokens = np.asarray(caption(found.variables, images))
    # The longest they may be; where all end before, theirs are cut.
    assert tokens.shape[1] == method.max_length - 1
    np.testing.assert_array_equal(tokens[:, : expected.shape[1]], expected)
    assert not tokens[:, expected.shape[1] :].any()
    if generation is None:
        assert (expected.shape[1], method.max_length) == (20, 21)


def test_the_settings_of_an_older_folder(copied):
    (copied / "generation_config.json").unlink()
    change(copied, "config.json", num_beams=2, decoder={"max_length": 20, "num_beams": 1})
    theirs = transformers.GenerationConfig.from_pretrained(
        copied, config_file_name="config.json", _from_model_config=True
    )
    found = read_captioner(copied).generation
    assert (found.num_beams, found.max_length) == (theirs.num_beams, theirs.max_length) == (2, 20)


def test_every_format_holds_the_same(copied):
    expected = read_variables(copied)
    file = copied / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    file.unlink()
    flat = write_flax(copied, tensors)
    assert flat["decoder/transformer/h/0/attn/c_attn/kernel"].shape == (96, 32)
    assert flat["enc_to_dec_proj/kernel"].shape == (24, 32)
    jax.tree.map(np.testing.assert_array_equal, read_variables(copied), expected)
    (copied / "flax_model.msgpack").unlink()
    # As published ones of 2021 and 2022: masks, the tied output layer, a pooler.
    tensors |= {
        "decoder.lm_head.weight": tensors["decoder.transformer.wte.weight"],
        "decoder.transformer.h.0.attn.bias": np.ones((1, 1, 24, 24), np.uint8),
        "decoder.transformer.h.1.crossattention.masked_bias": np.float32([-1e4]),
        "encoder.pooler.dense.weight": np.ones((24, 24), np.float32),
    }
    write_torch(copied / "pytorch_model.bin", tensors)
    jax.tree.map(np.testing.assert_array_equal, read_variables(copied), expected)


def refused(folder):
    with pytest.raises(WeightsError) as caught:
        read_captioner(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "its model_type is 'vit', and a captioner's is 'blip', "),
        ({"encoder": {"model_type": "swin"}}, "its model_type is 'swin', and must be vit, deit"),
        (
            {"decoder": {"model_type": "bert"}},
            "the decoder's model_type is 'bert', and must be 'gp",
        ),
        ({"decoder": {"add_cross_attention": False}}, "the decoder's add_cross_attention=false"),
        (
            {"decoder": {"cross_attention_hidden_size": 24}},
            "the decoder's cross_attention_hidden_size=24 is not supported; it must be null",
        ),
        ({"decoder": {"vocab_size": 300}}, "the decoder has vocab_size=300, and the tokenizer"),
    ],
)
def test_what_it_can_not_be_is_refused(copied, changes, message):
    change(copied, "config.json", **changes)
    assert f"{copied}/config.json: {message}" in refused(copied)


def test_captions_longer_than_the_positions_are_refused(copied):
    change(copied, "generation_config.json", max_length=26)
    assert "up to 26 tokens are asked for, and the decoder's 24 positions allow 25" in refused(
        copied
    )


def test_wrong_tensors_are_named_as_in_the_file(copied):
    file = copied / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)

    def message(**changes):
        safetensors.numpy.save_file({**tensors, **changes}, file)
        return refused(copied).removeprefix(f"{file}: ")

    zeros = np.zeros((32, 23), np.float32)
    assert message(**{"enc_to_dec_proj.weight": zeros}) == (
        "does not fit the model: enc_to_dec_proj.weight is [32, 23] and should be [32, 24]"
    )
    assert message(**{"extra.bias": zeros}) == (
        "has extra.bias [32, 23], and may have encoder, decoder, enc_to_dec_proj"
    )
    name = "decoder.transformer.h.1.crossattention.q_attn.weight"
    assert message(**{name: zeros}) == (
        f"does not fit the model: {name} is [32, 23] and should be [32, 32]"
    )
    nan = tensors[name].copy()
    nan[1, 2] = np.nan
    assert message(**{name: nan}).startswith(f"numbers of {name} are not finite")
    # Of a decoder as wide as the encoder it is one too many.
    change(copied, "config.json", encoder={"hidden_size": 32, "num_attention_heads": 4})
    assert "embeddings.cls_token is [1, 24] and should be [1, 32]" in message()


def test_a_name_brings_all_its_files(monkeypatch, folder, tmp_path):
    def serve(_, patterns):
        for path in folder.iterdir():
            if path.name in patterns:
                (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    asked = fake_hub(monkeypatch, serve)
    found = read_captioner("here/model")
    assert asked == [[*FILES, "model.safetensors"]]
    assert found.generation == read_captioner(folder).generation
    with pytest.raises(WeightsError, match="folder, and no name of huggingface"):
        read_captioner("no/such/place")
