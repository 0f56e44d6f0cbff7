"""Encoders by name: fields and pixels fit the network, and a ViT's folder makes a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import capjax
from capjax.config import build
from capjax.config.checks import check_trainable
from capjax.config.errors import ConfigError
from capjax.data.resize import Resize
from capjax.data.sections import check_images, open_captions, open_source, train_tokenizer
from capjax.models.captioner import split_frozen
from capjax.pretrained.errors import WeightsError
from capjax.run.features import with_features
from capjax.run.split import make_split
from capjax.run.train import train
from capjax.run.workdir import default_workdir
from configs import flickr8k_transformer, folder_transformer
from tests.helpers.effort import sweep
from tests.helpers.references import need_transformers
from tests.helpers.small_pictures import write_pictures
from tests.helpers.tiny_run import shorten

FEATURES = {
    "mobilenet_v2": (7, 1280),
    "mobilenet_v3_small": (7, 576),
    "mobilenet_v3_large": (7, 960),
    "efficientnet_b0": (7, 1280),
    "inception_v3": (8, 2048),
    "resnet50": (7, 2048),
    "resnet101": (7, 2048),
    "resnet152": (7, 2048),
}


@pytest.mark.parametrize(
    "name", sweep(FEATURES, ["mobilenet_v3_small", "inception_v3", "resnet50"])
)
def test_each_name_makes_its_network(name):
    config = flickr8k_transformer.get_config(name)
    encoder, resize = build.encoder(config), build.resize(config.dataset)
    images = jax.ShapeDtypeStruct((1, *resize.shape), jnp.uint8)
    memory = jax.eval_shape(
        lambda x: encoder.init_with_output(jax.random.key(0), x, train=False)[0], images
    )
    side, width = FEATURES[name]
    assert memory.grid == (side, side)
    assert memory.values.shape == (1, side * side, width)


def test_another_name_is_refused_and_says_which_there_are():
    with pytest.raises(ValueError, match="there is no encoder 'vgg'; it must be one of "):
        flickr8k_transformer.get_config("vgg")
    with pytest.raises(WeightsError, match=r"missing/: no such weights file or folder"):
        folder_transformer.get_config("missing/")


def test_a_workdirs_name_has_no_slashes():
    assert default_workdir("configs/a.py:openai/clip-b16") == "runs/a_openai_clip-b16"
    assert default_workdir("configs/a.py:../vit/") == "runs/a_.._vit"


@pytest.fixture(scope="module", name="clip")
def make_clip(tmp_path_factory):
    """A small CLIP with its processor, as `save_pretrained` writes them."""
    transformers = need_transformers()
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPVisionConfig(**sizes)
    transformers.CLIPVisionModel(config).eval().save_pretrained(folder)
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    )
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow(reason="runs of another encoder are tested every day")
def test_a_vits_folder_makes_a_run_whose_stages_have_names(clip, tmp_path):
    write_pictures(tmp_path)
    config = folder_transformer.get_config(f"{clip}/")
    assert config.encoder.depth == 2
    assert build.resize(config.dataset) == Resize(32, 40, True, "bicubic")
    fields = {"dataset.cache_dir": str(tmp_path), "dataset.crop_area": 1.0}
    fields |= {"encoder.cache_views": 1, "adapter.width": 8, "num_steps": 2, "eval_every": 2}
    shorten(config, tmp_path, {**fields, "decoder.width": 8, "decoder.num_layers": 1})
    first = tmp_path / "first"
    train(config, str(first))
    run = capjax.load(first)
    caption = run.caption([tmp_path / "0.png"], attention=True)[0]
    assert caption.grid == (4, 4)
    # Those that train are compared in tests/run/test_pretrained_runs.py.
    config.init_from = str(first)
    config.encoder.trainable, config.encoder.cache = ("block_1", "norm"), ""
    with pytest.raises(ConfigError, match=r"trainable has 'norm'; .*block_0, block_1"):
        train(config, str(tmp_path / "second"))


def test_fields_that_change_no_weight_are_part_of_a_caches_key(clip, tmp_path):
    write_pictures(tmp_path)
    config = folder_transformer.get_config(f"{clip}/")
    shorten(config, tmp_path, {"dataset.cache_dir": str(tmp_path)})
    variables = build.pretrained_encoder(config)
    source = check_images(config.dataset, open_source(config.dataset, "train"))
    table = open_captions(config.dataset, source)
    tokenizer = train_tokenizer(config, table)
    found = []
    changes = {"activation": "gelu", "num_heads": 4, "mean": (0.1,) * 3, "epsilon": 0.5}
    for field, value in [("depth", 2), *changes.items()]:
        changed = config.copy_and_resolve_references()
        changed.encoder[field] = value
        split = make_split(changed, source, table, tokenizer)
        cache = with_features(split, build.encoder(changed), variables).views[0]
        found.append(cache.read(np.arange(len(source))))
    for features in found[1:]:
        assert np.abs(features - found[0]).max() > 1e-3


def test_an_inceptions_block_trains_by_its_name():
    config = folder_transformer.get_config("inception_v3")
    config.encoder.trainable = ("mixed10",)
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.uint8)
    encoder = build.encoder(config)
    like = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), images)
    like = {name: {"encoder": leaves} for name, leaves in like.items()}
    check_trainable(config, like["params"])
    trained, _ = split_frozen(like, *build.frozen_parts(config))
    assert sorted(trained["encoder"]) == [f"conv2d_{number}" for number in range(85, 94)]
    config.encoder.trainable = ("mixed11",)
    with pytest.raises(ConfigError, match=r"'mixed11'; it must be 'all' or .* mixed0, mixed1"):
        check_trainable(config, like["params"])


def test_a_block_is_named_by_its_number():
    config = folder_transformer.get_config("efficientnet_b0")
    config.encoder.trainable = ("block7", "top")
    check_trainable(config, {"encoder": {"block7a_bn": 0, "block6a_bn": 0, "top_conv": 0}})
    config.encoder.trainable = ("block1",)
    with pytest.raises(ConfigError, match=r"has 'block1'.* encoder: top, block11$"):
        check_trainable(config, {"encoder": {"block11a_bn": 0, "top": 0}})
