"""The encoder sections that start from published weights, one comment a field; see `base`."""

import dataclasses
import os
from collections.abc import Callable

from ml_collections import ConfigDict

from capjax.data.images import Resize


def _pretrained(name: str) -> ConfigDict:
    """What every encoder with weights of a file has."""
    encoder = ConfigDict()
    encoder.name = name
    # "imagenet", which is downloaded, or a file: Keras's .h5 or .weights.h5; for a ResNet
    # torchvision's or timm's .safetensors or .pth; or one that `capjax.convert_encoder` wrote.
    encoder.weights = "imagenet"
    # What training changes of the encoder: the beginnings of its parts' names, such as ("layer3",
    # "layer4"), for InceptionV3 ("mixed10",), or ("all",). Batch norms stay as they are.
    encoder.trainable = ()
    # Type of a frozen encoder's features, which are computed once and kept in dataset.cache_dir:
    # "float16" or "bfloat16". "" computes them in each step.
    encoder.cache = "float16"
    # Features kept of each training image: of the whole, and of so many random crops and flips
    # (dataset.crop_area, dataset.flip) less one.
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
    # Side of the grid that features are pooled to; 0 leaves them as they are.
    encoder.grid = 0
    return encoder


def vit() -> ConfigDict:
    """A vision transformer (`models.encoders.vit`): ViT-B/16's class token, 14x14 features of 768.

    Other weights need other fields, which `capjax.pretrained.vit.read.vit_fields` reads from them.
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
    # Whether a norm stands before the first block.
    encoder.pre_norm = False
    # Whether a norm stands after the last block.
    encoder.final_norm = True
    # Whether residuals are scaled a channel.
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
    # How positions are brought to another grid: "bicubic", "bicubic_antialias" or "linear".
    encoder.resample = "bicubic"
    return encoder


# torchvision's preset of its newer weights.
_TORCHVISION = Resize(224, 232, keep_aspect=True, round_crop=True)
# Keras has no resize of its own: all of the image, as in the known tutorials.
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
    """The function of an encoder's name that a file states."""
    sections = (mobilenet_v2, mobilenet_v3, efficientnet_b0, inception_v3, resnet, vit)
    for section in sections:
        if section.__name__ == kind:
            return section
    raise ValueError(f"{path}: holds the encoder {kind!r}, which this version does not have")


def use_encoder(config: ConfigDict, name: str) -> None:
    """Gives a config a pretrained encoder, and pictures made squares as it is used to.

    Args:
      config: its `encoder` becomes another, and of its `dataset` the fields of the pixels change.
      name: a key of `_ENCODERS`; or a ViT's name on huggingface.co, its folder or file (see
        `capjax.pretrained.vit.read`), timm's name or folder of a ResNet, or a file of
        `capjax.convert_encoder`, which is read for the fields and the pixels.

    Raises:
      ValueError: there is no such encoder; of a file or folder a `WeightsError`, which is one.
    """
    if name in _ENCODERS:
        make, fields, resize = _ENCODERS[name]
        config.encoder = make()
    elif "/" in name or "." in name:
        config.encoder, fields, resize = _read(name)
    else:
        raise ValueError(
            f"there is no encoder {name!r}; it may be {', '.join(_ENCODERS)}, or of a ViT or of "
            "timm's ResNet a name on huggingface.co (organisation/name), or a file or folder, "
            "which is told from a name by a slash or a dot (./clip)"
        )
    config.encoder.update(fields)
    pixels = dataclasses.asdict(resize)
    config.dataset.update({"image_size": pixels.pop("size"), **pixels})


def _read(name: str) -> tuple[ConfigDict, dict, Resize]:
    """The encoder section of a file, a folder or a name, its stated fields, and its pixels."""
    # Configs import without JAX, which reads weights.
    from capjax.pretrained.resnet import timm_depth, timm_resize
    from capjax.pretrained.saved import read_about
    from capjax.pretrained.vit.read import vit_fields, vit_resize

    if about := read_about(os.path.expanduser(name)):
        return _section(about.name, name)(), {"weights": name, **about.fields}, about.resize
    if depth := timm_depth(name):
        return resnet(), {"weights": name, "depth": depth}, timm_resize(name)
    return vit(), {"weights": name, **vit_fields(name)}, vit_resize(name)
