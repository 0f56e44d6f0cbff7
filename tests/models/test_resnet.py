"""ResNet equals torch modules arranged as torchvision's, layer by layer."""

import jax
import numpy as np
import pytest

from capjax.models.encoders.resnet import ResNet
from tests.helpers.effort import sweep
from tests.helpers.references import need_torch, need_torchvision

torch = need_torch()
from benchmarks.torch_resnet import random_resnet  # noqa: E402

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def name_of(torch_name):
    """layer1.0.downsample.1: layer1_0_downsample_bn."""
    name = torch_name.replace(".", "_")
    return name.replace("downsample_0", "downsample_conv").replace("downsample_1", "downsample_bn")


def leaf(array):
    return array.detach().numpy()


@pytest.fixture(scope="module", name="pair")
def make_pair():
    """The reference, and its weights laid out by hand."""
    model = random_resnet(50)
    params, statistics = {}, {}
    for torch_name, module in model.named_modules():
        name = name_of(torch_name)
        if isinstance(module, torch.nn.Conv2d):
            kernel = leaf(module.weight).transpose(2, 3, 1, 0)
            params[name] = {"kernel": kernel[0, 0] if kernel.shape[:2] == (1, 1) else kernel}
        elif isinstance(module, torch.nn.BatchNorm2d):
            params[name] = {"scale": leaf(module.weight), "bias": leaf(module.bias)}
            statistics[name] = {"mean": leaf(module.running_mean), "var": leaf(module.running_var)}
    return model, {"params": params, "batch_stats": statistics}


def reference(model, images):
    """The last map [B, h, w, F], and what each convolution with its norm gave."""
    seen, hooks = {}, []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # The norm is a part of the convolution before it.
            convolution = name_of(name).replace("bn", "conv")

            def keep(module, inputs, output, name=convolution):
                seen[name] = output.permute(0, 2, 3, 1).numpy()

            hooks.append(module.register_forward_hook(keep))
    pixels = (images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    with torch.no_grad():
        last = model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()
    return last, seen


@pytest.mark.parametrize(("rows", "columns"), sweep([(96, 75), (65, 130)], [(96, 75)]))
def test_every_layer_equals_torch(pair, rows, columns):
    (model, variables), size = pair, (rows, columns)
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    memory, ours = jax.jit(
        lambda v, x: ResNet(50).apply(
            v, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )(variables, images)
    last, theirs = reference(model, images)
    assert len(theirs) == 53
    for name, expected in theirs.items():
        (found,) = ours["intermediates"][name]["__call__"]
        assert found.shape == expected.shape, name
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), name
        assert 1e-2 < expected.std() < 1e2, name
    last = last.permute(0, 2, 3, 1).numpy()
    assert memory.grid == last.shape[1:3] == tuple(-(-side // 32) for side in size)
    assert np.abs(memory.values - last.reshape(memory.values.shape)).max() <= 1e-4 * last.max()


def test_a_fixed_grid_is_torchs_adaptive_pooling(pair):
    """Of 14 x 14, as the Show-Attend-Tell tutorial has it, from a map of 3 x 4."""
    model, variables = pair
    images = np.random.default_rng(1).integers(0, 256, (1, 96, 128, 3), np.uint8)
    memory = jax.jit(lambda v, x: ResNet(50, grid=14).apply(v, x, train=False))(variables, images)
    theirs = torch.nn.AdaptiveAvgPool2d((14, 14))(reference(model, images)[0])
    assert memory.grid == (14, 14)
    expected = theirs.permute(0, 2, 3, 1).numpy().reshape(memory.values.shape)
    assert np.abs(memory.values - expected).max() <= 1e-4 * expected.max()


@pytest.mark.parametrize("depth", sweep([50, 101], [50]))
def test_the_reference_is_torchvisions(depth):
    torchvision = need_torchvision()
    theirs, ours = getattr(torchvision.models, f"resnet{depth}")().eval(), random_resnet(depth)
    theirs.load_state_dict(ours.state_dict())
    theirs.avgpool, theirs.fc = torch.nn.Identity(), torch.nn.Identity()
    pixels = torch.randn(1, 3, 65, 70)
    with torch.no_grad():
        np.testing.assert_allclose(theirs(pixels), ours(pixels).flatten(1), rtol=1e-4, atol=1e-4)
