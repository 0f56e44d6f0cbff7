"""timm's ViTs have timm's features and pixels here; misfits are named."""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from capjax.data.images import load_pixels
from capjax.data.resize import Resize
from capjax.models.encoders.vit import ViT
from capjax.pretrained.errors import WeightsError
from capjax.pretrained.saved import About, save_encoder
from capjax.pretrained.vit.read import load_vit, vit_fields, vit_resize
from tests.helpers.effort import sweep
from tests.helpers.read_vit import read_vit
from tests.helpers.references import need_timm, need_torch, need_transformers

torch, timm = need_torch(), need_timm()
need_transformers()
from tests.helpers.transformers_vits import assert_close, fake_hub, features, normalised, pictures  # noqa: E402

# Heads are 64 wide where the file does not say.
WIDTH, GRID = 128, 4
SMALL = {"embed_dim": WIDTH, "num_heads": 2, "depth": 2}
SIZES = {**SMALL, "img_size": 16, "patch_size": 4, "num_classes": 3, "dynamic_img_size": True}
SCALED = {"init_values": 1.0}
CLIP = {"pre_norm": True, "norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-5)}
GATED = {
    **SCALED,
    "mlp_layer": timm.layers.SwiGLUPacked,
    "mlp_ratio": 0.625,
    "act_layer": torch.nn.SiLU,
}


def vit(kind=timm.models.VisionTransformer, **options):
    """A small ViT of timm whose parameters are all random."""
    model = kind(**{**SIZES, "mlp_ratio": 0.3125, **options}).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


MODELS = {
    "vit": {},
    "deit_distilled": {"kind": timm.models.deit.VisionTransformerDistilled},
    "siglip": {"class_token": False, "global_pool": ""},
    "clip_quickgelu": {**CLIP, "act_layer": timm.layers.get_act_layer("quick_gelu")},
    "mae_gap": {"global_pool": "avg"},
    "dinov2": SCALED,
    "reg4_dinov2": {"reg_tokens": 4, "no_embed_class": True, **SCALED},
    "reg4": {"reg_tokens": 4},
    "giant_dinov2": GATED,
}


def tensors_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.fixture(name="file")
def make_file(tmp_path):
    def write(model, name="w.safetensors", start=""):
        tensors = {start + name: array for name, array in tensors_of(model).items()}
        safetensors.numpy.save_file(tensors, tmp_path / name)
        return tmp_path / name

    return write


def assert_same(found, expected):
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


@pytest.mark.parametrize("name", sweep(MODELS, [*MODELS][::2]))
def test_features_are_timms(name, file):
    model = vit(**MODELS[name])
    path = file(model, f"{name}.safetensors")
    fields, variables = read_vit(path)
    assert fields["num_heads"] == 2
    assert fields["position_grid"] == (GRID, GRID)
    images = pictures((12, 28))
    with torch.no_grad():
        theirs = model.forward_features(normalised(images, fields)).numpy()
    memory = features(fields, variables, images)
    assert memory.prefix == fields["prefix"] == len(theirs[0]) - 21
    assert_close(memory.values, theirs)
    assert vit_fields(path) == fields


NAMED = {
    "vit_tiny_patch16_224": {"depth": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 2},
    "vit_base_patch16_clip_quickgelu_224": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "vit_base_patch32_siglip_256": SMALL,
}


@pytest.fixture(scope="module", name="saved", params=sweep(NAMED, [*NAMED][2:5:2]))
def make_saved(request, tmp_path_factory):
    """A model with random weights at 64 or 56 pixels, and its folder as timm lays it out."""
    name = request.param
    side = 56 if "patch14" in name else 64
    model = timm.create_model(
        name, num_classes=0, img_size=side, dynamic_img_size=True, **NAMED[name]
    ).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp(name)
    safetensors.numpy.save_file(tensors_of(model), folder / "model.safetensors")
    pretrained = {**model.pretrained_cfg, "input_size": (3, side, side)}
    about = {"architecture": name, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(about))
    return model, folder, pretrained


def test_features_of_named_models_are_timms(saved):
    model, folder, pretrained = saved
    fields, variables = read_vit(folder)
    side, patch = pretrained["input_size"][1], fields["patch_size"]
    for size in ((side, side), (side + patch, side - patch)):
        images = pictures(size)
        with torch.no_grad():
            theirs = model.forward_features(normalised(images, pretrained)).numpy()
        assert_close(features(fields, variables, images).values, theirs, 1e-4)


def test_pixels_are_timms(saved):
    _, folder, pretrained = saved
    data = timm.data.resolve_data_config(pretrained_cfg=pretrained)
    transform = timm.data.create_transform(**{**data, "mean": (0, 0, 0), "std": (1, 1, 1)})
    noise = np.random.default_rng(0).integers(0, 256, (91, 133, 3), np.uint8)
    picture = Image.fromarray(noise).resize((233, 171))
    expected = transform(picture).permute(1, 2, 0).numpy() * 255
    assert np.abs(load_pixels(picture, vit_resize(folder)) - expected.round()).max() <= 1


def test_torch_files_and_longer_names_hold_the_same(file, tmp_path):
    model = vit(**SCALED)
    expected = read_vit(file(model))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert_same(read_vit(tmp_path / "w.pth"), expected)
    torch.save({"model": model.state_dict()}, tmp_path / "nested.pth")
    assert_same(read_vit(tmp_path / "nested.pth"), expected)
    assert_same(read_vit(file(model, start="visual.trunk.")), expected)


def test_metas_own_names_hold_the_same_with_registers(file, tmp_path):
    """There the class token has a position and the registers have none."""
    model = vit(reg_tokens=4, no_embed_class=True, **GATED)
    expected = read_vit(file(model))
    theirs, position = {}, torch.full((1, 1, WIDTH), 0.5)
    for name, tensor in model.state_dict().items():
        name = name.replace("reg_token", "register_tokens").replace("fc1", "w12")
        theirs[name.replace("fc2", "w3")] = tensor
    theirs["pos_embed"] = torch.cat([position, theirs["pos_embed"]], dim=1)
    theirs["cls_token"] = theirs["cls_token"] - position
    theirs["mask_token"] = torch.zeros(1, WIDTH)
    torch.save(theirs, tmp_path / "dinov2.pth")
    fields, variables = read_vit(tmp_path / "dinov2.pth")
    assert fields == expected[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), variables, expected[1])


@pytest.mark.parametrize("place", ["folder", "file"])
def test_a_config_beside_it_says_what_shapes_do_not(place, file, tmp_path):
    path = file(vit(), "model.safetensors")
    about = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 16, 16]}
    config = {"architecture": "vit_base_patch32_siglip_256.v2", "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fields = vit_fields(tmp_path if place == "folder" else path)
    assert (fields["mean"], fields["std"]) == ((0.1, 0.2, 0.3), (1, 1, 1))
    assert fields["activation"] == "gelu_tanh"


def test_a_name_whose_config_says_little_is_fetched_with_its_weights(file, tmp_path, monkeypatch):
    expected = vit_fields(file(vit(), "model.safetensors"))
    config = tmp_path / "config.json"
    config.write_text('{"architecture": "vit_base_patch16_224"}')
    asked = fake_hub(monkeypatch, lambda *_: tmp_path)
    assert vit_fields("timm/vit_base_patch16_224.augreg_in21k") == expected
    assert asked[-1][-1] == "model.safetensors"


def test_what_a_file_does_not_say_is_usual_for_its_kind(file):
    def usual(name, **options):
        return vit_fields(file(vit(**options), f"{name}.safetensors"))

    assert usual("vit_base_patch16_224")["mean"] == (0.5, 0.5, 0.5)
    assert usual("deit_base_patch16_224")["mean"] == (0.485, 0.456, 0.406)
    assert usual("vit_base_patch14_dinov2", **SCALED)["std"] == (0.229, 0.224, 0.225)
    clip = usual("vit_base_patch32_clip_224", **CLIP)
    assert (clip["mean"][0], clip["epsilon"]) == (0.48145466, 1e-5)
    assert clip["activation"] == "gelu"
    quick = usual("vit_base_patch32_clip_quickgelu_224", **CLIP)
    assert quick["activation"] == "quick_gelu"
    assert usual("vit_base_patch16_siglip_224")["activation"] == "gelu"


@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (768, 12), (1024, 16), (1152, 16), (1280, 16), (1408, 16)]
)
def test_heads_are_as_timm_has_them(width, heads, tmp_path):
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 197, width),
        "patch_embed.proj.weight": (width, 3, 1, 1),
        "blocks.0.mlp.fc1.weight": (4, width),
        "blocks.0.mlp.fc2.weight": (width, 4),
    }
    arrays = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    safetensors.numpy.save_file(arrays, tmp_path / "w.safetensors")
    assert vit_fields(tmp_path / "w.safetensors")["num_heads"] == heads


def test_what_is_not_stated_can_be_given_and_what_is_stated_can_not(file, caplog):
    path = file(vit())
    given = {"num_heads": 4, "mean": [0, 0, 0], "activation": "gelu_tanh"}
    fields, _ = read_vit(path, **given)
    assert fields == vit_fields(path) | given | {"mean": (0, 0, 0)}
    with pytest.raises(WeightsError, match=r"encoder\.depth is 3 and .*w\.safetensors has 2$"):
        vit_fields(path, depth=3)
    with pytest.raises(WeightsError, match="a ViT has no field heads; it has patch_size, width,"):
        vit_fields(path, heads=3)
    with caplog.at_level("WARNING", logger="absl"):
        load_vit(ViT(**fields), str(path), 16)
    told = "does not state its num_heads: taking encoder.num_heads=4, where 2 would be usual"
    assert told in caplog.text


def test_what_is_no_vit_of_timms_is_refused(file, tmp_path):
    def refused(message, **changes):
        tensors = tensors_of(vit()) | changes
        tensors = {name: array for name, array in tensors.items() if array is not None}
        safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(WeightsError, match=message):
            read_vit(tmp_path / "w.safetensors")

    def zeros(*shape):
        return np.zeros(shape, np.float32)

    refused(r"has 0 tensors \*patch_embed\.proj\.weight", **{"patch_embed.proj.weight": None})
    refused(r"no pos_embed of 3 axes", pos_embed=None)
    refused(r"pos_embed has 15 rows, of which 1 may", pos_embed=zeros(1, 15, WIDTH))
    refused(r"no blocks\.0\.mlp\.fc2\.weight", **{"blocks.0.mlp.fc2.weight": None})
    refused(r"missing blocks\.1\.norm2\.bias", **{"blocks.1.norm2.bias": None})
    refused(
        r"unexpected blocks\.0\.attn\.q_norm\.weight", **{"blocks.0.attn.q_norm.weight": zeros(64)}
    )
    refused(r"norm\.bias is \[3\] and should be \[128\]", **{"norm.bias": zeros(3)})


@pytest.mark.parametrize("name", ["clip_quickgelu", "reg4_dinov2", "giant_dinov2"])
def test_what_is_saved_once_reads_back_the_same(name, file, tmp_path):
    fields, variables = read_vit(file(vit(**MODELS[name]), f"{name}.safetensors"))
    path = tmp_path / "mine" / "saved.safetensors"
    save_encoder(path, About("vit", fields, Resize(9, 12)), variables)
    assert_same(read_vit(path), (fields, variables))
    assert vit_fields(path) == fields
    assert vit_resize(path) == Resize(9, 12)
    jax.tree.map(np.testing.assert_array_equal, load_vit(ViT(**fields), str(path), 16), variables)
    with pytest.raises(
        WeightsError, match=r"encoder\.mlp_dim is 7 and .*saved\.safetensors has 40"
    ):
        load_vit(ViT(**fields | {"mlp_dim": 7}), str(path), 16)


def test_a_saved_file_that_was_tampered_with_is_refused(file, tmp_path):
    fields, variables = read_vit(file(vit()))
    path = tmp_path / "saved.safetensors"
    del variables["params"]["norm"]["bias"]
    save_encoder(path, About("vit", fields, Resize(9, 12)), variables)
    with pytest.raises(WeightsError, match="missing params/norm/bias"):
        read_vit(path)
    for wrong in ({"depth": "2"}, {"depth": 10**9}, {"depth": -1}, {"width": "wide"}):
        save_encoder(path, About("vit", fields | wrong, Resize(9, 12)), variables)
        with pytest.raises(WeightsError, match=r"saved\.safetensors: "):
            read_vit(path)
    save_encoder(path, About("vit", {"depth": 2}, Resize(9)), variables)
    with pytest.raises(WeightsError, match=r"a vit with the fields depth, and a ViT has patch_siz"):
        read_vit(path)
    for text in ('{"depth": 2}', "3", "{", '{"name": "vit", "fields": [1], "resize": {}}'):
        safetensors.numpy.save_file({"a": np.zeros(1)}, path, {"capjax_encoder": text})
        with pytest.raises(WeightsError, match=r"does not state its encoder's name, .*again"):
            read_vit(path)
    path.write_bytes(b"hello, this is no weights file")
    with pytest.raises(WeightsError, match="is no safetensors file, or a damaged one"):
        read_vit(path)
