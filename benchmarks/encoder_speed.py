"""Images per second of each pretrained encoder, in capjax and in the library of its origin.

    python -m benchmarks.encoder_speed [--encoders mobilenet_v3_small ...] [--batch 32]
        [--batches 8] [--rounds 5]

Both sides have random weights and map the same random uint8 pixels, 224x224 (InceptionV3: 299x299),
to the feature map before pooling, a float32 NumPy array. The peer is `keras.applications` on
TensorFlow in a `tf.function`; for the ResNet (101 layers) the torch network of the tests, in
channels-last memory; and for ViT-B/16 `transformers`; the last two in inference mode. capjax runs
the function of its feature cache.

The sides take turns in processes of their own, so that both figures of a round are from the same
state of the machine. The first two batches, which compile, are not counted. Figures are medians
over rounds, and a ratio is the median of the rounds' ratios. The fraction of the limit is by
operations of products and convolutions, depthwise ones included.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np

from benchmarks.feature_speed import SIDE
from benchmarks.rows import Report
from benchmarks.sides import alternate, peak_memory_mib

SIDES = {"inception_v3": 299}
KERAS = {
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3Small",
    "mobilenet_v3_large": "MobileNetV3Large",
    "efficientnet_b0": "EfficientNetB0",
    "inception_v3": "InceptionV3",
}
# Keras models that scale pixels themselves.
SCALING = ("MobileNetV3Small", "MobileNetV3Large", "EfficientNetB0")
ENCODERS = (*KERAS, "resnet", "vit")
RESNET_DEPTH = 101

Encode = Callable[[np.ndarray], np.ndarray]
PEERS = {"resnet": "torch", "vit": "transformers"}


def make_encoder(name: str):
    """capjax's encoder of a name, a Flax module."""
    from capjax.models.encoders.efficientnet_b0 import EfficientNetB0
    from capjax.models.encoders.inception_v3 import InceptionV3
    from capjax.models.encoders.mobilenet_v2 import MobileNetV2
    from capjax.models.encoders.mobilenet_v3 import MobileNetV3
    from capjax.models.encoders.resnet import ResNet
    from capjax.models.encoders.vit import ViT

    return {
        "mobilenet_v2": MobileNetV2(),
        "mobilenet_v3_small": MobileNetV3("small"),
        "mobilenet_v3_large": MobileNetV3("large"),
        "efficientnet_b0": EfficientNetB0(),
        "inception_v3": InceptionV3(),
        "resnet": ResNet(RESNET_DEPTH),
        "vit": ViT(16, 768, 12, 12, 3072, (14, 14)),
    }[name]


def make_capjax(name: str, side: int) -> Encode:
    import jax
    import jax.numpy as jnp

    from capjax.parallel import devices
    from capjax.run.features import make_encode

    encoder = make_encoder(name)
    images = jnp.zeros((1, side, side, 3), jnp.uint8)
    variables = jax.jit(lambda key: encoder.init(key, images, train=False))(jax.random.key(0))
    encode, placed = devices.map_local(make_encode(encoder)), devices.replicate(variables)
    return lambda pixels: devices.unshard(encode(placed, devices.shard(pixels)))


def make_keras(name: str, side: int) -> Encode:
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    import keras
    import tensorflow as tf

    kind = KERAS[name]
    model = getattr(keras.applications, kind)(
        weights=None, include_top=False, input_shape=(side, side, 3)
    )

    @tf.function(reduce_retracing=True)
    def encode(pixels):
        pixels = tf.cast(pixels, tf.float32)
        return model(pixels if kind in SCALING else pixels / 127.5 - 1.0, training=False)

    return lambda pixels: encode(pixels).numpy()


def make_torch(name: str) -> Encode:
    import torch

    from benchmarks.torch_resnet import TorchResNet
    from benchmarks.torchvision_operators import declare_operators

    if name == "resnet":
        model = TorchResNet(RESNET_DEPTH).eval().to(memory_format=torch.channels_last)
    else:
        declare_operators()  # transformers imports torchvision if it is installed.
        import transformers

        vit = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False).eval()

        def model(x):
            return vit(x).last_hidden_state.mT[:, :, None]

    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)

    def encode(pixels):
        with torch.inference_mode():
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            return model((x.float() / 255 - mean) / std).permute(0, 2, 3, 1).numpy()

    return encode


def image_flops(name: str, side: int) -> float:
    """Operations of one image's products and convolutions."""
    import jax

    from benchmarks.matmul_count import matmul_flops

    encoder, image = make_encoder(name), jax.ShapeDtypeStruct((1, side, side, 3), np.uint8)
    variables = jax.eval_shape(
        lambda key, images: encoder.init(key, images, train=False), jax.random.key(0), image
    )
    return matmul_flops(lambda v, x: encoder.apply(v, x, train=False).values, variables, image)


def run_side(name: str, is_peer: bool, batch: int, batches: int) -> dict:
    side = SIDES.get(name, SIDE)
    if not is_peer:
        encode = make_capjax(name, side)
    else:
        encode = make_keras(name, side) if name in KERAS else make_torch(name)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    start = time.perf_counter()
    encode(pixels)
    first = time.perf_counter() - start
    encode(pixels)
    start = time.perf_counter()
    for _ in range(batches):
        encode(pixels)
    seconds = (time.perf_counter() - start) / batches
    found = {"seconds": seconds, "first": first, "peak_memory_mib": peak_memory_mib()}
    return found if is_peer else found | {"needs": {"flops": batch * image_flops(name, side)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument("--batch", type=int, default=32, help="images per call")
    parser.add_argument("--batches", type=int, default=8, help="timed calls of a side")
    parser.add_argument("--rounds", type=int, default=5, help="number of runs of each side")
    parser.add_argument("--side", choices=("peer", "capjax"), help="run one side in this process")
    given = parser.parse_args()
    if given.side:
        is_peer = given.side == "peer"
        print(json.dumps(run_side(given.encoders[0], is_peer, given.batch, given.batches)))
        return
    report, options = Report(), [f"--batch={given.batch}", f"--batches={given.batches}"]
    for name in given.encoders:
        sides = ("peer", "capjax")
        found = alternate("encoder_speed", sides, given.rounds, f"--encoders={name}", *options)
        shown = {"count": given.batch, "unit": "images/s"}
        report.add(f"encoder {name}", PEERS.get(name, "Keras"), *found.values(), **shown)
    report.close()


if __name__ == "__main__":
    main()
