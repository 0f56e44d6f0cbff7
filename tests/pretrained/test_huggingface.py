"""Hugging Face's checkpoints give transformers' features in every format; misfits are named."""

import json
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from capjax.models.encoders.vit import ViT
from capjax.pretrained.checkpoint_folders import CONFIGS
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.vit.huggingface import read_config
from capjax.pretrained.vit.read import load_vit, vit_fields
from tests.helpers.effort import slow_too, sweep
from tests.helpers.read_vit import read_vit
from tests.helpers.references import need_torch, need_transformers

need_torch()
transformers = need_transformers()
from tests.helpers.transformers_vits import (  # noqa: E402
    MODELS,
    assert_close,
    fake_hub,
    features,
    make,
    normalised,
    pictures,
    reference,
    save,
    write_flax,
    write_torch,
)


def write_pixels(folder, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)):
    config = {"image_mean": mean, "image_std": std, "size": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def published(folder):
    """The tensors of a saved model by the names that published files have."""
    return safetensors.numpy.load_file(folder / "model.safetensors")


@pytest.fixture(scope="module", name="saved")
def make_saved(tmp_path_factory):
    """A folder for each model; made once, where a test asks for it."""
    folders = {}

    def saved(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            save(make(name), folders[name])
            write_pixels(folders[name])
        return folders[name]

    return saved


@pytest.mark.parametrize("name", MODELS)
def test_features_are_transformers_at_any_size(name, tmp_path):
    # The last has pixels left over on both sides.
    for seed, size in [(0, (16, 16)), (1, (12, 28)), (2, (19, 14))][0 if slow_too() else 2 :]:
        model = make(name, seed)
        save(model, tmp_path)
        write_pixels(tmp_path)
        fields, variables = read_vit(tmp_path)
        assert fields["mean"] == (0.4, 0.5, 0.6)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
        images = pictures(size, seed=seed)
        memory = features(fields, variables, images)
        assert memory.grid == (size[0] // 4, size[1] // 4)
        assert_close(memory.values, reference(name, model, normalised(images, fields)))
    assert vit_fields(tmp_path) == fields


def write_as(kind, folder, tensors):
    """Writes the weights anew in another format, and takes the old ones away."""
    (folder / "model.safetensors").unlink()
    if kind == "bin":
        write_torch(folder / "pytorch_model.bin", tensors)
    elif kind == "sharded bin":
        names, where = sorted(tensors), {}
        for number, part in enumerate((names[::2], names[1::2])):
            file = f"pytorch_model-{number}.bin"
            write_torch(folder / file, {name: tensors[name] for name in part})
            where |= dict.fromkeys(part, file)
        index = json.dumps({"weight_map": where})
        (folder / "pytorch_model.bin.index.json").write_text(index)
    else:
        assert kind == "msgpack"
        write_flax(folder, tensors)


@pytest.mark.parametrize("kind", ["bin", "sharded bin", "msgpack"])
@pytest.mark.parametrize(
    "name", sweep(["vit_classifier", "clip", "dinov2_gated", "encoder_decoder"], ["clip"])
)
def test_every_format_holds_the_same(name, kind, tmp_path):
    save(make(name), tmp_path)
    expected = read_vit(tmp_path)
    write_as(kind, tmp_path, published(tmp_path))
    found = read_vit(tmp_path)
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_many_safetensors_hold_the_same(tmp_path, saved):
    save(make("siglip"), tmp_path, max_shard_size="20kB")
    write_pixels(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    found, expected = read_vit(tmp_path), read_vit(saved("siglip"))
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_becomes_float32(dtype, tmp_path):
    save(make("vit"), tmp_path)
    _, exact = read_vit(tmp_path)
    half = {name: array.astype(dtype) for name, array in published(tmp_path).items()}
    safetensors.numpy.save_file(half, tmp_path / "model.safetensors")
    _, found = read_vit(tmp_path)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", ["vit", "deit", "clip", "siglip", "dinov2"])
def test_a_config_that_says_nothing_means_transformers_defaults(name):
    classes = {"vit": "ViT", "deit": "DeiT", "clip": "CLIP", "siglip": "Siglip", "dinov2": "Dinov2"}
    whole = getattr(transformers, f"{classes[name]}Config")().to_dict()
    assert read_config({"model_type": name}, "c") == read_config(whole, "c")
    vision = whole.get("vision_config", whole)
    fields, _ = read_config(whole, "c")
    assert fields["patch_size"] == vision["patch_size"]
    assert fields["epsilon"] == vision["layer_norm_eps"]


def test_the_larger_dinov2_has_its_published_widths():
    giant = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24}
    config = {"model_type": "dinov2", **giant, "use_swiglu_ffn": True, "image_size": 518}
    fields, _ = read_config({**config, "mlp_ratio": 4}, "c")
    assert (fields["mlp_dim"], fields["gated"], fields["activation"]) == (4096, True, "silu")
    assert fields["position_grid"] == (37, 37)


def refused(config, **changes):
    with pytest.raises(WeightsError) as caught:
        read_config({**config, **changes}, "FOLDER/config.json")
    return str(caught.value)


def test_other_models_are_refused():
    assert "its model_type is 'swin', and must be vit, deit" in refused({"model_type": "swin"})
    assert "its model_type is None" in refused({})
    assert "SigLIP 2, those of one fixed resolution" in refused({"model_type": "siglip2"})
    both = {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "beit"}}
    assert "its model_type is 'beit'" in refused(both)
    vit = {"model_type": "vit"}
    assert "num_channels is 1, and must be 3" in refused(vit, num_channels=1)
    assert "hidden_act is 'relu', and must be gelu" in refused(vit, hidden_act="relu")
    assert "patch_size is 16x8, and must be square" in refused(vit, patch_size=[16, 8])


def test_sizes_of_two_numbers_are_read():
    config = {"model_type": "vit", "image_size": [32, 64], "patch_size": [16, 16]}
    fields, _ = read_config(config, "c")
    assert (fields["patch_size"], fields["position_grid"]) == (16, (2, 4))


def test_missing_misshapen_and_unexpected_tensors_are_named(tmp_path):
    save(make("clip"), tmp_path)
    tensors, start = published(tmp_path), "vision_model.encoder.layers."
    del tensors[f"{start}1.mlp.fc1.bias"]
    del tensors["vision_model.embeddings.class_embedding"]
    tensors[f"{start}0.self_attn.q_proj.weight"] = np.zeros((24, 23), np.float32)
    tensors[f"{start}2.layer_norm1.bias"] = np.zeros(24, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_vit(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/model.safetensors: does not fit the model: "
        "missing embeddings.class_embedding; "
        "missing encoder.layers.1.mlp.fc1.bias; unexpected encoder.layers.2.layer_norm1.bias [24]; "
        "encoder.layers.0.self_attn.q_proj.weight is [24, 23] and should be [24, 24]"
    )
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"has 0 tensors \*embeddings\.patch_embedding\.weight"):
        read_vit(tmp_path)


def test_an_encoder_of_other_fields_is_told_which(saved):
    folder = saved("vit")
    fields = vit_fields(folder)
    variables = load_vit(ViT(**fields), str(folder), 32)
    jax.tree.map(np.testing.assert_array_equal, variables, read_vit(folder)[1])
    other = ViT(**fields | {"depth": 12, "epsilon": 1e-6, "mean": (0.5, 0.5, 0.5)})
    with pytest.raises(WeightsError) as caught:
        load_vit(other, str(folder), 32)
    assert str(caught.value) == "; ".join(
        f"encoder.{name} is {ours} and {folder}/config.json has {theirs}"
        for name, ours, theirs in [
            ("depth", 12, 2),
            ("epsilon", 1e-6, 1e-12),
            ("mean", (0.5, 0.5, 0.5), (0.4, 0.5, 0.6)),
        ]
    )
    with pytest.raises(ValueError, match="patch_size=4 exceeds the image size 3x3"):
        load_vit(ViT(**fields), str(folder), 3)


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json: no such file"):
        vit_fields(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"config\.json: should hold a JSON object"):
        vit_fields(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: is no JSON file, or a damaged one"):
        vit_fields(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match=r"has no weights: none of model\.safetensors, model"):
        read_vit(tmp_path)
    (tmp_path / "flax_model.msgpack").write_bytes(b"\xc1")
    with pytest.raises(WeightsError, match=r"flax_model\.msgpack: is no msgpack file of Flax"):
        read_vit(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(WeightsError, match=r"names '\.\./secret\.safetensors', which is not besid"):
        read_vit(tmp_path)
    safetensors.numpy.save_file({"b": np.zeros(2)}, tmp_path / "model-1.safetensors")
    index.write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(WeightsError, match=r"names a, which model-1\.safetensors does not have"):
        read_vit(tmp_path)
    index.write_text("{}")
    with pytest.raises(WeightsError, match="has no weight_map"):
        read_vit(tmp_path)


@pytest.fixture(name="asked")
def make_asked(monkeypatch, tmp_path, saved):
    """huggingface_hub, replaced: "here/model" has these files; notes what it was asked for."""
    source = saved("vit")

    def serve(name, patterns):
        if name != "here/model":
            raise OSError("no connection")
        for path in source.iterdir():
            if path.name in patterns and "safetensors" not in path.name:
                (tmp_path / path.name).write_bytes(path.read_bytes())
        if "pytorch_model.bin" in patterns:
            write_torch(tmp_path / "pytorch_model.bin", published(source))
        return tmp_path

    return fake_hub(monkeypatch, serve)


def test_a_name_is_fetched_no_more_of_than_is_needed(asked, saved):
    fields = vit_fields("here/model")
    assert asked == [[*CONFIGS]]
    assert fields == vit_fields(saved("vit"))
    variables = load_vit(ViT(**fields), "here/model", 16)
    jax.tree.map(np.testing.assert_array_equal, variables, read_vit(saved("vit"))[1])
    # The kinds of weights are asked for one by one, best first, until one is there.
    assert [names[3:4] for names in asked[1:]] == [
        ["model.safetensors"],
        ["model.safetensors.index.json"],
        ["flax_model.msgpack"],
        ["pytorch_model.bin"],
    ]


@pytest.mark.usefixtures("asked")
def test_without_a_network_or_the_library_it_says_what_would_work(monkeypatch):
    with pytest.raises(
        WeightsError,
        match=r"no connection.*download huggingface\.co/other/model.*give its folder in place",
    ):
        vit_fields("other/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"is not installed.*pip install huggingface_hub\), or "):
        vit_fields("other/model")
    with pytest.raises(WeightsError, match="no such weights file or folder, and no name of hugg"):
        vit_fields("no/such/place")
