"""Google's .npz files give the features of the model whose weights were laid out so."""

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from capjax.pretrained.errors import WeightsError
from capjax.pretrained.vit.read import vit_fields
from tests.helpers.read_vit import read_vit
from tests.helpers.references import need_transformers

transformers = need_transformers()
from tests.helpers.transformers_vits import (  # noqa: E402
    BASE,
    assert_close,
    features,
    make,
    normalised,
    pictures,
    reference,
    save,
)

HEADS = BASE["num_attention_heads"]
VIT_BLOCK = {
    "LayerNorm_0": "layernorm_before",
    "MultiHeadDotProductAttention_1/query": "attention.attention.query",
    "MultiHeadDotProductAttention_1/key": "attention.attention.key",
    "MultiHeadDotProductAttention_1/value": "attention.attention.value",
    "MultiHeadDotProductAttention_1/out": "attention.output.dense",
    "LayerNorm_2": "layernorm_after",
    "MlpBlock_3/Dense_0": "intermediate.dense",
    "MlpBlock_3/Dense_1": "output.dense",
}
SIGLIP_BLOCK = {
    "LayerNorm_0": "layer_norm1",
    "MultiHeadDotProductAttention_0/query": "self_attn.q_proj",
    "MultiHeadDotProductAttention_0/key": "self_attn.k_proj",
    "MultiHeadDotProductAttention_0/value": "self_attn.v_proj",
    "MultiHeadDotProductAttention_0/out": "self_attn.out_proj",
    "LayerNorm_1": "layer_norm2",
    "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
}


def laid_out(tensors):
    """The weight and bias of one part as Flax's modules of these names keep them."""

    def lay_out(flax_name, torch_name):
        weight, bias = (tensors[f"{torch_name}.{part}"] for part in ("weight", "bias"))
        if weight.ndim == 1:
            return {f"{flax_name}/scale": weight, f"{flax_name}/bias": bias}
        if weight.ndim == 4:
            weight = weight.transpose(2, 3, 1, 0)
        elif flax_name.endswith("/out"):
            weight = weight.T.reshape(HEADS, -1, weight.shape[0])
        elif "Attention" in flax_name:
            weight, bias = weight.T.reshape(weight.shape[1], HEADS, -1), bias.reshape(HEADS, -1)
        else:
            weight = weight.T
        return {f"{flax_name}/kernel": weight, f"{flax_name}/bias": bias}

    return lay_out


def arrays_of(name, folder):
    """A model of transformers, and its weights as vision_transformer or big_vision keeps them."""
    model = make(name)
    save(model, folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    lay_out = laid_out(tensors)
    if name == "vit_tanh":
        arrays = {
            "cls": tensors["embeddings.cls_token"],
            "Transformer/posembed_input/pos_embedding": tensors["embeddings.position_embeddings"],
            **lay_out("embedding", "embeddings.patch_embeddings.projection"),
            **lay_out("Transformer/encoder_norm", "layernorm"),
        }
        block, torch_block = VIT_BLOCK, "encoder.layer"
    else:
        arrays = {
            "pos_embedding": tensors["embeddings.position_embedding.weight"][None],
            **lay_out("embedding", "embeddings.patch_embedding"),
            **lay_out("Transformer/encoder_norm", "post_layernorm"),
            "MAPHead_0/probe": np.zeros((1, 1, 24), np.float32),
            "MAPHead_0/MultiHeadDotProductAttention_0/query/kernel": np.zeros((24, 3, 8)),
        }
        block, torch_block = SIGLIP_BLOCK, "encoder.layers"
    for number in range(2):
        for theirs, torchs in block.items():
            start = f"Transformer/encoderblock_{number}/"
            arrays |= lay_out(start + theirs, f"{torch_block}.{number}.{torchs}")
    return model, {**arrays, "head/kernel": np.zeros((24, 7)), "head/bias": np.zeros(7)}


def text_tower():
    return {
        "params/txt/Embed_0/embedding": np.zeros((7, 24)),
        "params/txt/Encoder_0/encoderblock_0/MlpBlock_0/Dense_0/kernel": np.zeros((24, 8)),
        "params/t": np.zeros(1),
        "params/b": np.zeros(1),
    }


def within(arrays, start):
    return {start + name: array for name, array in arrays.items()}


def stacked(arrays):
    """Blocks as big_vision keeps them with scan=True."""
    first, found = "Transformer/encoderblock_0/", {}
    for name, array in arrays.items():
        if name.startswith(first):
            rest = name.removeprefix(first)
            both = [array, arrays[f"Transformer/encoderblock_1/{rest}"]]
            found[f"Transformer/encoderblock/{rest}"] = np.stack(both)
        elif not name.startswith("Transformer/encoderblock_1/"):
            found[name] = array
    return found


@pytest.mark.parametrize("name", ["vit_tanh", "siglip_vision"])
def test_features_are_the_models(name, tmp_path):
    model, arrays = arrays_of(name, tmp_path)
    np.savez(tmp_path / "w.npz", **arrays)
    fields, variables = read_vit(tmp_path / "w.npz")
    assert (fields["num_heads"], fields["activation"], fields["resample"]) == (
        HEADS,
        "gelu_tanh",
        "linear",
    )
    assert fields["prefix"] == (name == "vit_tanh")
    images = pictures((16, 16))
    theirs = reference(name, model, normalised(images, fields))
    # The norms' epsilon is 1e-12 in transformers' ViT, and 1e-6 here.
    assert_close(features(fields, variables, images).values, theirs, 1e-4)


def test_big_visions_layouts_hold_the_same(tmp_path):
    _, arrays = arrays_of("siglip_vision", tmp_path)

    def read(arrays):
        np.savez(tmp_path / "w.npz", **arrays)
        return read_vit(tmp_path / "w.npz")

    fields, variables = read(arrays)
    layouts = [stacked(arrays), within(arrays, "params/img/") | text_tower()]
    layouts.append(within(stacked(arrays), "params/img/") | text_tower())
    for layout in layouts:
        found = read(layout)
        assert found[0] == fields
        jax.tree.map(np.testing.assert_array_equal, found[1], variables)
    # bfloat16 comes back from NumPy's files as two bytes without a meaning.
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    for ours, theirs in zip(
        jax.tree.leaves(read(half)[1]), jax.tree.leaves(variables), strict=True
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=1e-6)


def test_a_class_token_without_a_position_is_read(tmp_path):
    """As big_vision has it with pool_type="tok"."""
    _, arrays = arrays_of("siglip_vision", tmp_path)
    arrays["cls"] = np.full((1, 1, 24), 0.5, np.float32)
    np.savez(tmp_path / "w.npz", **arrays)
    fields, variables = read_vit(tmp_path / "w.npz")
    assert (fields["prefix"], fields["position_grid"]) == (1, (4, 4))
    np.testing.assert_array_equal(variables["params"]["prefix_tokens"], arrays["cls"][0])


def test_pixels_can_be_given(tmp_path):
    _, arrays = arrays_of("siglip_vision", tmp_path)
    np.savez(tmp_path / "w.npz", **arrays)
    assert vit_fields(tmp_path / "w.npz")["mean"] == (0.5, 0.5, 0.5)
    assert vit_fields(tmp_path / "w.npz", mean=[0, 0, 0])["mean"] == (0, 0, 0)


def test_what_does_not_fit_is_named(tmp_path):
    _, arrays = arrays_of("vit_tanh", tmp_path)

    def refused(message, **changes):
        changed = {n: a for n, a in {**arrays, **changes}.items() if a is not None}
        np.savez(tmp_path / "w.npz", **changed)
        with pytest.raises(WeightsError, match=message):
            read_vit(tmp_path / "w.npz")

    first = "Transformer/encoderblock_0/"
    query = f"{first}MultiHeadDotProductAttention_1/query/kernel"
    refused(r"should have one array \*/Transformer/encoderblock_0/.*/query/kernel", **{query: None})
    refused(r"query/kernel, by heads", **{query: np.zeros((24, 24))})
    refused(
        r"missing Transformer\.encoderblock_0\.LayerNorm_2\.weight",
        **{f"{first}LayerNorm_2/scale": None},
    )
    refused(r"unexpected conv_root\.weight", **{"conv_root/kernel": np.zeros((7, 7, 3, 8))})
    refused(r"has 0 tensors \*embedding\.weight", **{"embedding/kernel": None})


def test_what_is_no_file_of_arrays_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_vit(tmp_path / "none.npz")
    path = tmp_path / "w.npz"
    for content in (b"", b"hello, this is no weights file", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.npz: is no \.npz file, or a damaged one"):
            read_vit(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(WeightsError, match=r"is no \.npz file"):
        read_vit(path)
