"""A GPT-2 alone is read from every kind of file for a warm start; misfits are named."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from capjax.models import layers
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.gpt2 import GPT2Decoder
from capjax.pretrained.captioners.gpt2 import fill_fresh, read_config, read_gpt2
from capjax.pretrained.errors import WeightsError
from tests.helpers.references import need_torch, need_transformers

torch = need_torch()
transformers = need_transformers()
from tests.helpers.transformers_vits import assert_close, save, write_flax, write_torch  # noqa: E402

SIZES = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 8, "vocab_size": 20}
IDS = {"bos_token_id": 0, "eos_token_id": 0}


def gpt2(seed=0, kind="GPT2LMHeadModel", **fields):
    model = getattr(transformers, kind)(transformers.GPT2Config(**{**SIZES, **IDS, **fields}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    save(gpt2(), folder)
    return folder


def copy(folder, to, **changes):
    config = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **changes}))
    return safetensors.numpy.load_file(folder / "model.safetensors")


def equal(one, other):
    assert one[0] == other[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


@pytest.fixture(name="fresh")
def make_fresh(folder):
    """A module and its own first parameters."""
    fields, _ = read_gpt2(folder)
    module = Captioner(FeatureEncoder((1, 2)), GPT2Decoder(**fields))
    shapes = jax.eval_shape(lambda: module.init_variables(jax.random.key(0), (2, 24)))
    rng = np.random.default_rng(0)
    random = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    return module, random["params"]["decoder"]


@pytest.mark.parametrize(
    "activation", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish"]
)
def test_every_activation_is_transformers(activation):
    fields, _ = read_config({"model_type": "gpt2", "activation_function": activation}, "c")
    x = np.linspace(-4, 4, 50, dtype=np.float32)
    theirs = transformers.activations.ACT2FN[activation](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(layers.activation(fields["activation"])(x), theirs, atol=1e-6)


def test_a_warm_start_speaks_as_gpt2_until_it_looks(folder, fresh):
    fields, params = read_gpt2(folder)
    module, first = fresh
    whole, names = fill_fresh(params, first, "FOLDER")
    flat = traverse_util.flatten_dict(whole, sep="/")
    assert {*names} == {n for n in flat if "cross_attention" in n or "norms_1" in n}
    # Without what the fresh part says, the logits are GPT-2's own.
    for block in range(fields["num_layers"]):
        out = whole[f"blocks_{block}"]["cross_attention"]["out"]
        out |= {name: np.zeros_like(leaf) for name, leaf in out.items()}
    tokens = np.random.default_rng(0).integers(0, 20, (2, 8))
    apply = jax.jit(
        lambda v, x, t: module.apply(v, x, t, train=False).logits,
        compiler_options={"xla_backend_optimization_level": 0},
    )
    found = apply({"params": {"decoder": whole}}, np.ones((2, 2, 24), "f4"), tokens[:, None])
    with torch.no_grad():
        theirs = gpt2()(torch.from_numpy(tokens)).logits.numpy()
    assert_close(np.asarray(found)[:, 0], theirs, relative=1e-4)


def test_a_decoder_of_another_shape_is_not_filled(folder, fresh):
    _, params = read_gpt2(folder)
    _, first = fresh
    first["positions"]["embedding"] = np.zeros((9, 24), np.float32)
    del first["last_norm"]
    with pytest.raises(WeightsError) as caught:
        fill_fresh(params, first, "FOLDER")
    assert str(caught.value) == (
        "FOLDER: does not fit the model: unexpected last_norm/bias [24]; unexpected "
        "last_norm/scale [24]; positions/embedding is [8, 24] and should be [9, 24]"
    )


def test_every_format_and_naming_holds_the_same(folder, tmp_path):
    expected = read_gpt2(folder)
    equal(read_gpt2(folder / "model.safetensors"), expected)
    tensors = copy(folder, tmp_path)
    assert "transformer.wte.weight" in tensors
    # As the first published file: no "transformer.", with masks and the tied output layer.
    bare = {name.removeprefix("transformer."): array for name, array in tensors.items()}
    bare |= {
        "h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32),
        "h.1.attn.masked_bias": np.ones(()),
    }
    write_torch(tmp_path / "pytorch_model.bin", bare)
    equal(read_gpt2(tmp_path), expected)
    write_flax(tmp_path, tensors)
    equal(read_gpt2(tmp_path), expected)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    safetensors.numpy.save_file(
        {name: array.astype(np.float32) for name, array in tensors.items()},
        tmp_path / "model.safetensors",
    )
    equal(read_gpt2(tmp_path), expected)


def test_many_files_and_a_model_without_a_head_hold_the_same(folder, tmp_path):
    save(gpt2(), tmp_path, max_shard_size="20kB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    equal(read_gpt2(tmp_path), read_gpt2(folder))


def test_one_with_attention_to_an_image_keeps_it(tmp_path):
    save(gpt2(add_cross_attention=True), tmp_path)
    _, params = read_gpt2(tmp_path)
    assert params["blocks_1"]["cross_attention"]["key_value"]["kernel"].shape == (24, 48)


def test_a_config_that_says_nothing_means_transformers_defaults():
    whole = transformers.GPT2Config().to_dict()
    fields, cross = read_config({"model_type": "gpt2"}, "c")
    assert (fields, cross) == read_config(whole, "c")
    assert not cross
    module = GPT2Decoder()
    assert fields == {name: getattr(module, name) for name in fields}
    assert read_config({**whole, "n_inner": 100}, "c")[0]["mlp_ratio"] * 768 == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "the decoder's model_type is 'bert', and must be 'gpt2'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=true is not"),
        ({"scale_attn_weights": False}, "scale_attn_weights=false is not supported; it must be tr"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=false is not supported"),
        (
            {"activation_function": "mish"},
            'activation_function="mish" is not supported; it must be',
        ),
        ({"n_head": 5}, "n_head=5 is not supported; it must be what divides n_embd=768"),
        ({"n_layer": "12"}, 'n_layer="12" is not supported; it must be a whole number of 1 to'),
        ({"n_inner": 0}, "n_inner=0 is not supported; it must be a whole number"),
    ],
)
def test_what_it_can_not_be_is_refused_by_name(changes, message):
    with pytest.raises(WeightsError) as caught:
        read_config({"model_type": "gpt2", **changes}, "FOLDER/config.json")
    assert str(caught.value).startswith(f"FOLDER/config.json: {message}")


def test_reordered_attention_gives_the_same_numbers():
    config = {"model_type": "gpt2", "reorder_and_upcast_attn": True}
    assert read_config(config, "c") == read_config({"model_type": "gpt2"}, "c")


def test_a_wrong_file_names_its_tensors(folder, tmp_path):
    tensors = copy(folder, tmp_path)
    file = tmp_path / "model.safetensors"

    def message(found):
        safetensors.numpy.save_file(found, file)
        with pytest.raises(WeightsError) as caught:
            read_gpt2(tmp_path)
        return str(caught.value).removeprefix(f"{file}: ")

    wrong = dict(tensors)
    del wrong["transformer.h.1.mlp.c_fc.bias"]
    wrong["transformer.h.0.attn.c_attn.weight"] = np.zeros((72, 24), np.float32)
    wrong["transformer.h.2.ln_1.bias"] = np.zeros(24, np.float32)
    wrong["score.weight"] = np.zeros((2, 24), np.float32)
    assert message(wrong) == (
        "does not fit the model: missing transformer.h.1.mlp.c_fc.bias; unexpected score.weight "
        "[2, 24]; unexpected transformer.h.2.ln_1.bias [24]; transformer.h.0.attn.c_attn.weight is "
        "[72, 24] and should be [24, 72]"
    )
    other = {**tensors, "lm_head.weight": np.zeros((20, 24), np.float32)}
    assert message(other) == (
        "lm_head.weight is not transformer.wte.weight, and GPT-2's output layer is its embedding"
    )
    assert message({"a": np.zeros(1)}) == (
        "has 0 tensors *wte.weight, and a file of one GPT-2 has 1; it has a, ..."
    )


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="gpt2: no such weights file or folder, and no name of"):
        read_gpt2("gpt2")
    with pytest.raises(WeightsError, match=r"config\.json: no such file"):
        read_gpt2(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(WeightsError, match=r"has no weights: none of model\.safetensors"):
        read_gpt2(tmp_path)
