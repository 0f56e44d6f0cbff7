"""ViT: positions on other grids as torch and SciPy make them, shapes, errors; parity with published
models is in tests/pretrained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from capjax.models.encoders.vit import ViT, resample_positions, resampling_matrix
from tests.helpers.effort import sweep

SMALL = {"patch_size": 4, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 24}
SMALL |= {"position_grid": (3, 5)}
CHANGES = {
    "plain": {},
    "no prefix": {"prefix": 0},
    "registers": {"prefix": 5, "layer_scale": True, "resample": "bicubic_antialias"},
    "clip": {"pre_norm": True, "patch_bias": False, "final_norm": False},
    "gated": {"gated": True, "activation": "silu", "resample": "linear"},
}
GRIDS = [((14, 14), (24, 24)), ((16, 16), (7, 12)), ((37, 37), (16, 16)), ((7, 5), (1, 9))]


def pictures(size=(12, 20), count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def random_variables(encoder, images):
    """All parameters random: what starts at 0 or 1 must count, too."""
    like = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), like)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_bicubic_positions_are_torchs(old, new, antialias):
    torch = pytest.importorskip("torch", reason="the reference is torch's interpolate")
    table = np.random.default_rng(0).normal(size=(old[0] * old[1], 6)).astype(np.float32)
    grid = torch.from_numpy(table.reshape(1, *old, 6)).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(
        grid, size=new, mode="bicubic", align_corners=False, antialias=antialias
    )
    theirs = theirs[0].permute(1, 2, 0).reshape(-1, 6).numpy()
    method = "bicubic_antialias" if antialias else "bicubic"
    ours = resample_positions(jnp.asarray(table), old, new, method)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize(("old", "new"), GRIDS[:3])
def test_linear_positions_are_scipys(old, new):
    table = np.random.default_rng(0).normal(size=(*old, 6)).astype(np.float32)
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    theirs = ndimage.zoom(table, zoom, order=1).reshape(-1, 6)
    ours = resample_positions(jnp.asarray(table.reshape(-1, 6)), old, new, "linear")
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("method", ["bicubic", "bicubic_antialias", "linear"])
def test_resampling_keeps_constants_mirror_images_and_whole_grids(method):
    for old, new in [(1, 1), (1, 4), (2, 7), (16, 37), (37, 16), (24, 14), (5, 1)]:
        matrix = resampling_matrix(old, new, method)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
        if not (method == "linear" and new == 1):  # That one is the first sample's.
            np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(resampling_matrix(9, 9, method), np.eye(9), atol=1e-12)


@pytest.mark.parametrize("name", sweep(CHANGES, ["no prefix", "registers", "clip"]))
def test_memory_shape_and_rows(name):
    encoder, images = ViT(**SMALL | CHANGES[name]), pictures((16, 8))
    variables = random_variables(encoder, images)
    apply = jax.jit(lambda x: encoder.apply(variables, x, train=False))
    memory = apply(images)
    assert memory.grid == (4, 2)
    assert memory.prefix == encoder.prefix
    assert memory.values.shape == (3, encoder.prefix + 8, 16)
    turned = apply(images[[1, 2, 0]])
    np.testing.assert_allclose(turned.values[0], memory.values[1], atol=1e-4)


@pytest.mark.parametrize("name", sweep(CHANGES, ["registers", "gated"]))
def test_every_parameter_counts_and_none_depends_on_the_image_size(name):
    encoder, images = ViT(**SMALL | CHANGES[name]), pictures((16, 8))
    variables = random_variables(encoder, images)
    other = jax.eval_shape(lambda: encoder.init(jax.random.key(0), pictures(), train=False))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, other)

    @jax.jit
    def gradient(variables):
        def total(variables):
            values = encoder.apply(variables, images, train=True).values
            return (values**3).sum()  # A norm's output alone would sum to a constant.

        return jax.grad(total)(variables)

    for at, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(at)


def test_patches_lie_by_rows_after_the_prefix():
    encoder, image = ViT(**SMALL | {"depth": 0, "prefix": 2}), pictures(count=1)
    variables = random_variables(encoder, image)
    before = encoder.apply(variables, image, train=False).values[0]
    for position, (row, column) in enumerate(np.ndindex(3, 5)):
        changed = image.copy()
        changed[0, row * 4 + 3, column * 4 + 1] ^= 255
        after = encoder.apply(variables, changed, train=False).values[0]
        moved = np.flatnonzero(np.abs(after - before).max(-1) > 1e-6)
        assert moved.tolist() == [2 + position]


def test_pixels_are_normalised_by_channel():
    fields = SMALL | {"depth": 0, "final_norm": False, "prefix": 0}
    mean, std = (0.1, 0.5, 0.7), (0.2, 0.3, 0.4)
    image = pictures(count=1)
    plain = ViT(**fields, mean=(0, 0, 0), std=(1, 1, 1))
    variables = random_variables(plain, image)
    values = ViT(**fields, mean=mean, std=std).apply(variables, image, train=False).values
    dense = variables["params"]["patch_embedding"]
    patch = (image[0, 4:8, 8:12] / 255 - mean) / std
    expected = patch.reshape(-1) @ dense["kernel"] + dense["bias"]
    np.testing.assert_allclose(
        values[0, 7], expected + variables["params"]["positions"][7], rtol=1e-4, atol=1e-4
    )


def test_half_precision_is_close_and_keeps_float32_parameters():
    encoder, images = ViT(**SMALL), pictures()
    variables = random_variables(encoder, images)
    half = ViT(**SMALL, dtype=jnp.bfloat16)
    exact, values = (
        jax.jit(lambda v, e=e: e.apply(v, images, train=False).values)(variables)
        for e in (encoder, half)
    )
    assert values.dtype == jnp.bfloat16
    assert np.abs(values.astype(jnp.float32) - exact).mean() < 0.05 * np.abs(exact).mean()
    fresh = jax.eval_shape(lambda: half.init(jax.random.key(0), images, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, (3, 18), "patch_size=4 exceeds the image size 3x18; choose .* of 4 or more"),
        ({"activation": "relu"}, (12, 20), "activation='relu' must be one of 'gelu', 'gelu_tanh'"),
        ({"resample": "nearest"}, (16, 20), "resample='nearest' must be one of 'bicubic'"),
        ({"num_heads": 3}, (12, 20), "num_heads=3 must divide width=16"),
    ],
)
def test_what_cannot_be_is_refused(changes, size, message):
    def init():
        return ViT(**SMALL | changes).init(jax.random.key(0), pictures(size), train=False)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(init)
