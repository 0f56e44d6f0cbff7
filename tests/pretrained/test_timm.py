"""ViTs that timm itself makes, saves and prepares pixels for."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from capjax.data.images import load_pixels
from capjax.models.encoders.vit import ViT
from capjax.pretrained.vit.read import vit_resize
from tests.helpers.effort import sweep
from tests.helpers.read_vit import read_vit
from tests.helpers.references import need_timm, need_torch

torch, timm = need_torch(), need_timm()
import safetensors.torch  # noqa: E402

SMALL = {"embed_dim": 128, "num_heads": 2, "depth": 2}
MODELS = {
    "vit_tiny_patch16_224": {"depth": 2},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 2},
    "vit_base_patch16_clip_quickgelu_224": SMALL,
    "vit_base_patch16_siglip_224": SMALL,
    "vit_base_patch32_siglip_256": SMALL,
}


@pytest.fixture(scope="module", name="saved", params=sweep(MODELS, [*MODELS][2:5:2]))
def make_saved(request, tmp_path_factory):
    """A model with random weights at 64 or 56 pixels, and its folder as timm lays it out."""
    name = request.param
    side = 56 if "patch14" in name else 64
    model = timm.create_model(
        name, num_classes=0, img_size=side, dynamic_img_size=True, **MODELS[name]
    ).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp(name)
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    pretrained = {**model.pretrained_cfg, "input_size": (3, side, side)}
    about = {"architecture": name, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(about))
    return model, folder, pretrained


def test_features_are_timms(saved):
    model, folder, pretrained = saved
    fields, variables = read_vit(folder)
    vit = ViT(**fields)
    mean, std = (torch.tensor(pretrained[part])[:, None, None] for part in ("mean", "std"))
    side, patch = pretrained["input_size"][1], fields["patch_size"]
    apply = jax.jit(lambda images: vit.apply(variables, images, train=False).values)
    for height, width in ((side, side), (side + patch, side - patch)):
        images = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
        with torch.no_grad():
            expected = model.forward_features(pixels).numpy()
        np.testing.assert_allclose(apply(images), expected, atol=1e-4 * np.abs(expected).max())


def test_pixels_are_timms(saved):
    _, folder, pretrained = saved
    data = timm.data.resolve_data_config(pretrained_cfg=pretrained)
    transform = timm.data.create_transform(**{**data, "mean": (0, 0, 0), "std": (1, 1, 1)})
    noise = np.random.default_rng(0).integers(0, 256, (91, 133, 3), np.uint8)
    picture = Image.fromarray(noise).resize((233, 171))
    expected = transform(picture).permute(1, 2, 0).numpy() * 255
    assert np.abs(load_pixels(picture, vit_resize(folder)) - expected.round()).max() <= 1
