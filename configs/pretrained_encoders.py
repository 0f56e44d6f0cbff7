"""The encoder sections with pretrained weights, with one comment per field; see `base`."""

import dataclasses
import os
from collections.abc import Callable

from ml_collections import ConfigDict

from capjax.data.resize import Resize


def _pretrained(name: str) -> ConfigDict:
    """Fields that every pretrained encoder has."""
    encoder = ConfigDict()
    encoder.name = name
    # "imagenet", which is downloaded, or a file: Keras's .h5 or .weights.h5; for a ResNet
    # torchvision's or timm's .safetensors or .pth; or one that `capjax convert` wrote.
    encoder.weights = "imagenet"
    # Parts of the encoder that train, by the beginnings of their names, for example ("layer3",
    # "layer4"), for InceptionV3 ("mixed10",), or ("all",). Batch norms are always frozen.
    encoder.trainable = ()
    # Type of a frozen encoder's features, which are computed once and kept in dataset.cache_dir:
    # "float16" or "bfloat16". "" computes them in each step.
    encoder.cache = "float16"
    # Cached features per training image: 1 of the whole image, the others of random crops and
    # flips (dataset.crop_area, dataset.flip).
    encoder.cache_views = 1
    return encoder


def mobilenet_v2() -> ConfigDict:
    """MobileNetV2 (`capjax.models.encoders.mobilenet_v2`): 7x7 features of 1280 at 224 pixels."""
    encoder = _pretrained("mobilenet_v2")
    # Multiplies the channels of all layers.
    encoder.alpha = 1.0
    return encoder


def mobilenet_v3() -> ConfigDict:
    """MobileNetV3 (`models.encoders.mobilenet_v3`): 7x7 features of 960 or 576 at 224 pixels."""
    encoder = _pretrained("mobilenet_v3")
    # "small" or "large".
    encoder.size = "large"
    # Multiplies the channels of all blocks.
    encoder.alpha = 1.0
    return encoder


def efficientnet_b0() -> ConfigDict:
    """EfficientNet-B0 (`models.encoders.efficientnet_b0`): 7x7 features of 1280 at 224 pixels."""
    return _pretrained("efficientnet_b0")


def inception_v3() -> ConfigDict:
    """InceptionV3 (`capjax.models.encoders.inception_v3`): 8x8 features of 2048 at 299 pixels."""
    return _pretrained("inception_v3")


def resnet() -> ConfigDict:
    """A ResNet (`capjax.models.encoders.resnet`): 7x7 features of 2048 at 224 pixels."""
    encoder = _pretrained("resnet")
    # 50, 101 or 152 layers.
    encoder.depth = 101
    # Side of the grid to which features are pooled; 0 does not pool.
    encoder.grid = 0
    return encoder


def vit() -> ConfigDict:
    """A vision transformer (`models.encoders.vit`): ViT-B/16's class token, 14x14 features of 768.

    Other weights need other fields, which `capjax.pretrained.vit.read.vit_fields` reads.
    """
    encoder = _pretrained("vit")
    # A name on huggingface.co, a folder or a file (`capjax.pretrained.vit.read`).
    encoder.weights = "google/vit-base-patch16-224-in21k"
    # Side of a patch in pixels.
    encoder.patch_size = 16
    # Width of the memory.
    encoder.width = 768
    # Transformer blocks.
    encoder.depth = 12
    # Attention heads a block; must divide the width.
    encoder.num_heads = 12
    # Inner width of a feed-forward block.
    encoder.mlp_dim = 3072
    # Rows and columns of patches that the positions were trained on.
    encoder.position_grid = (14, 14)
    # Learned positions before the patches: class token, distillation token, registers.
    encoder.prefix = 1
    # Whether the embedding of patches has a bias.
    encoder.patch_bias = True
    # Whether there is a norm before the first block.
    encoder.pre_norm = False
    # Whether there is a norm after the last block.
    encoder.final_norm = True
    # Whether residuals are scaled per channel.
    encoder.layer_scale = False
    # Whether the feed-forward blocks are gated.
    encoder.gated = False
    # "gelu", "gelu_tanh", "quick_gelu" or "silu".
    encoder.activation = "gelu"
    # Epsilon of the norms.
    encoder.epsilon = 1e-12
    # Mean and deviation of pixels over 255, by channel.
    encoder.mean = (0.5, 0.5, 0.5)
    encoder.std = (0.5, 0.5, 0.5)
    # Interpolation of positions to another grid: "bicubic", "bicubic_antialias" or "linear".
    encoder.resample = "bicubic"
    return encoder


# The preprocessing of torchvision's newer weights.
_TORCHVISION = Resize(224, 232, keep_aspect=True, round_crop=True)
# Keras defines no resize; these take the whole image, as the known tutorials do.
_ENCODERS = {
    "mobilenet_v2": (mobilenet_v2, {}, Resize(224)),
    "mobilenet_v3_small": (mobilenet_v3, {"size": "small"}, Resize(224)),
    "mobilenet_v3_large": (mobilenet_v3, {"size": "large"}, Resize(224)),
    "efficientnet_b0": (efficientnet_b0, {}, Resize(224)),
    "inception_v3": (inception_v3, {}, Resize(299)),
    "resnet50": (resnet, {"depth": 50}, _TORCHVISION),
    "resnet101": (resnet, {"depth": 101}, _TORCHVISION),
    "resnet152": (resnet, {"depth": 152}, _TORCHVISION),
}


def _section(kind: str, path: str) -> Callable[[], ConfigDict]:
    """The function that makes the section of an encoder named in a file."""
    sections = (mobilenet_v2, mobilenet_v3, efficientnet_b0, inception_v3, resnet, vit)
    for section in sections:
        if section.__name__ == kind:
            return section
    raise ValueError(f"{path}: holds the encoder {kind!r}, which this version lacks")


def use_encoder(config: ConfigDict, name: str) -> None:
    """Sets a config's encoder to a pretrained one, and the resize of images to match it.

    Args:
      config: its `encoder` section and the image fields of its `dataset` section change.
      name: a key of `_ENCODERS`; or a ViT's name on huggingface.co, its folder or file (see
        `capjax.pretrained.vit.read`), timm's name or folder of a ResNet, or a file of
        `capjax convert`, which gives the fields and the resize.

    Raises:
      ValueError: there is no such encoder; for a file or folder its subclass `WeightsError`.
    """
    if name in _ENCODERS:
        make, fields, resize = _ENCODERS[name]
        config.encoder = make()
    elif "/" in name or "." in name:
        config.encoder, fields, resize = _read(name)
    else:
        raise ValueError(
            f"there is no encoder {name!r}; it must be one of {', '.join(_ENCODERS)}, or a ViT or "
            "timm's ResNet: its name on huggingface.co (organisation/name), or its file or folder "
            "with a slash or a dot in the path (./clip)"
        )
    config.encoder.update(fields)
    pixels = dataclasses.asdict(resize)
    config.dataset.update({"image_size": pixels.pop("size"), **pixels})


def _read(name: str) -> tuple[ConfigDict, dict, Resize]:
    """The encoder section of a file, folder or name, the fields it states, and its resize."""
    # Imported here, because it needs JAX and configs import without it.
    from capjax.pretrained.resnet import timm_depth, timm_resize
    from capjax.pretrained.saved import read_about
    from capjax.pretrained.vit.read import vit_fields, vit_resize

    if about := read_about(os.path.expanduser(name)):
        return _section(about.name, name)(), {"weights": name, **about.fields}, about.resize
    if depth := timm_depth(name):
        return resnet(), {"weights": name, "depth": depth}, timm_resize(name)
    return vit(), {"weights": name, **vit_fields(name)}, vit_resize(name)
