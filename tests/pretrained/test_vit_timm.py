"""timm's ViTs have the features of torch modules arranged as timm's; misfits are named."""

import json
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy

from capjax.data.images import Resize
from capjax.models.encoders.vit import ViT
from capjax.pretrained.saved import About, save_encoder
from capjax.pretrained.vit.read import load_vit, vit_fields, vit_resize
from capjax.pretrained.weights import WeightsError
from tests.helpers.effort import sweep
from tests.helpers.read_vit import read_vit
from tests.helpers.references import need_torch, need_transformers

torch = need_torch()
need_transformers()
from tests.helpers.transformers_vits import assert_close, features, normalised, pictures  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
# Heads are 64 wide where the file does not say.
WIDTH, PATCH, GRID = 128, 4, 4


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))


class Block(nn.Module):
    """Of timm's Block, Attention, Mlp and SwiGLUPacked."""

    def __init__(self, model):
        super().__init__()
        hidden, self.model = 40, [model]
        self.norm1, self.norm2 = model.norm_of(), model.norm_of()
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)}
        )
        if model.layer_scale:
            self.ls1, self.ls2 = Scale(), Scale()
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(WIDTH, (1 + model.gated) * hidden),
                "fc2": nn.Linear(hidden, WIDTH),
            }
        )

    def forward(self, x):
        model = self.model[0]
        batch, count, _ = x.shape
        query, key, value = (
            self.attn["qkv"](self.norm1(x)).reshape(batch, count, 3, 2, 64).permute(2, 0, 3, 1, 4)
        )
        y = functional.scaled_dot_product_attention(query, key, value)
        y = self.attn["proj"](y.transpose(1, 2).reshape(batch, count, WIDTH))
        x = x + (y * self.ls1.gamma if model.layer_scale else y)
        y = self.mlp["fc1"](self.norm2(x))
        if model.gated:
            gate, y = y.chunk(2, dim=-1)
            y = functional.silu(gate) * y
        else:
            y = model.activation(y)
        y = self.mlp["fc2"](y)
        return x + (y * self.ls2.gamma if model.layer_scale else y)


class TimmViT(nn.Module):
    """Of timm's VisionTransformer(dynamic_img_size=True), forward_features."""

    def __init__(
        self,
        tokens=("cls_token",),
        registers=0,
        embed_tokens=True,
        pre_norm=False,
        layer_scale=False,
        gated=False,
        final_norm=True,
        activation=functional.gelu,
    ):
        super().__init__()
        torch.manual_seed(0)
        self.layer_scale, self.gated, self.activation = layer_scale, gated, activation
        self.epsilon = 1e-5 if pre_norm else 1e-6
        self.names = [*tokens, *["reg_token"] * bool(registers)]
        for name in self.names:
            count = registers if name == "reg_token" else 1
            setattr(self, name, nn.Parameter(torch.zeros(1, count, WIDTH)))
        self.positioned = (len(tokens) + registers) * embed_tokens
        self.pos_embed = nn.Parameter(torch.zeros(1, self.positioned + GRID * GRID, WIDTH))
        conv = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=not pre_norm)
        self.patch_embed = nn.ModuleDict({"proj": conv})
        if pre_norm:
            self.norm_pre = self.norm_of()
        self.blocks = nn.Sequential(Block(self), Block(self))
        if final_norm:
            self.norm = self.norm_of()
        else:
            self.fc_norm = self.norm_of()
        self.head = nn.Linear(WIDTH, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0, 0.2)

    def norm_of(self):
        return nn.LayerNorm(WIDTH, eps=self.epsilon)

    def forward(self, pixels):
        x = self.patch_embed["proj"](pixels)
        size = x.shape[2:]
        before, grid = self.pos_embed.split([self.positioned, GRID * GRID], dim=1)
        grid = grid.reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, size=size, mode="bicubic", antialias=True)
        x = (x + grid).flatten(2).transpose(1, 2)
        tokens = [getattr(self, name) for name in self.names]
        if tokens:
            tokens = torch.cat(tokens, dim=1)
            if self.positioned:
                tokens = tokens + before
            x = torch.cat([tokens.expand(len(x), -1, -1), x], dim=1)
        x = self.norm_pre(x) if hasattr(self, "norm_pre") else x
        x = self.blocks(x)
        return self.norm(x) if hasattr(self, "norm") else x


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


MODELS = {
    "vit": {},
    "deit_distilled": {"tokens": ("cls_token", "dist_token")},
    "siglip": {"tokens": ()},
    "clip_quickgelu": {"pre_norm": True, "activation": quick_gelu},
    "mae_gap": {"final_norm": False},
    "dinov2": {"layer_scale": True},
    "reg4_dinov2": {"registers": 4, "embed_tokens": False, "layer_scale": True},
    "reg4": {"registers": 4},
    "giant_dinov2": {"layer_scale": True, "gated": True},
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
    model = TimmViT(**MODELS[name])
    path = file(model, f"{name}.safetensors")
    fields, variables = read_vit(path)
    assert fields["num_heads"] == 2
    assert fields["position_grid"] == (GRID, GRID)
    images = pictures((12, 28))
    with torch.no_grad():
        theirs = model(normalised(images, fields)).numpy()
    memory = features(fields, variables, images)
    assert memory.prefix == fields["prefix"] == len(theirs[0]) - 21
    assert_close(memory.values, theirs)
    assert vit_fields(path) == fields


def test_torch_files_and_longer_names_hold_the_same(file, tmp_path):
    model = TimmViT(layer_scale=True)
    expected = read_vit(file(model))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert_same(read_vit(tmp_path / "w.pth"), expected)
    torch.save({"model": model.state_dict()}, tmp_path / "nested.pth")
    assert_same(read_vit(tmp_path / "nested.pth"), expected)
    assert_same(read_vit(file(model, start="visual.trunk.")), expected)


def test_metas_own_names_hold_the_same_with_registers(file, tmp_path):
    """There the class token has a position and the registers have none."""
    model = TimmViT(registers=4, embed_tokens=False, layer_scale=True, gated=True)
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
    path = file(TimmViT(), "model.safetensors")
    about = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 16, 16]}
    config = {"architecture": "vit_base_patch32_siglip_256.v2", "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fields = vit_fields(tmp_path if place == "folder" else path)
    assert (fields["mean"], fields["std"]) == ((0.1, 0.2, 0.3), (1, 1, 1))
    assert fields["activation"] == "gelu_tanh"


def test_a_name_whose_config_says_little_is_fetched_with_its_weights(file, tmp_path, monkeypatch):
    expected = vit_fields(file(TimmViT(), "model.safetensors"))
    config = tmp_path / "config.json"
    config.write_text('{"architecture": "vit_base_patch16_224"}')
    asked, module = [], types.ModuleType("huggingface_hub")

    def snapshot_download(name, allow_patterns):
        asked.append(allow_patterns[-1])
        return str(tmp_path)

    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert vit_fields("timm/vit_base_patch16_224.augreg_in21k") == expected
    assert asked[-1] == "model.safetensors"


def test_what_a_file_does_not_say_is_usual_for_its_kind(file):
    def usual(name, **options):
        return vit_fields(file(TimmViT(**options), f"{name}.safetensors"))

    assert usual("vit_base_patch16_224")["mean"] == (0.5, 0.5, 0.5)
    assert usual("deit_base_patch16_224")["mean"] == (0.485, 0.456, 0.406)
    assert usual("vit_base_patch14_dinov2", layer_scale=True)["std"] == (0.229, 0.224, 0.225)
    clip = usual("vit_base_patch32_clip_224", pre_norm=True)
    assert (clip["mean"][0], clip["epsilon"]) == (0.48145466, 1e-5)
    assert clip["activation"] == "gelu"
    quick = usual("vit_base_patch32_clip_quickgelu_224", pre_norm=True)
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
    path = file(TimmViT())
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
        tensors = tensors_of(TimmViT()) | changes
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
    fields, variables = read_vit(file(TimmViT(**MODELS[name]), f"{name}.safetensors"))
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
    fields, variables = read_vit(file(TimmViT()))
    path = tmp_path / "saved.safetensors"
    del variables["params"]["norm"]["bias"]
    save_encoder(path, About("vit", fields, Resize(9, 12)), variables)
    with pytest.raises(WeightsError, match="missing params/norm/bias"):
        read_vit(path)
    for wrong in ({"depth": "2"}, {"depth": 10**9}, {"depth": -1}, {"width": "wide"}):
        save_encoder(path, About("vit", fields | wrong, Resize(9, 12)), variables)
        with pytest.raises(WeightsError, match=r"saved\.safetensors has"):
            load_vit(ViT(**fields), str(path), 16)
    save_encoder(path, About("vit", fields | {"depth": 10**9}, Resize(9, 12)), variables)
    with pytest.raises(WeightsError, match=r"saved\.safetensors: .*too few for the 1000000000"):
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
