"""Images per second of a frozen MobileNetV2 in capjax and in Keras; depthwise convolutions.

    python -m benchmarks.feature_speed [--rounds 3] [--depthwise]

Both sides read the same JPEG files (random, 224x224), decode them with Pillow and compute 7x7x1280
float32 features with random weights, 32 images per batch. Keras calls its model in a `tf.function`,
which was faster than `predict`. capjax runs the extraction of its feature cache, including writing
and checksums. The sides take turns in processes of their own; the first batch, which compiles, is
not counted. Figures are medians over rounds. The fraction of the limit is by the network's
operations; decoding counts as nothing.

--depthwise times the two implementations of `capjax.models.depthwise` on the sizes of MobileNetV2,
with the norm and activation that follow, on JAX's default backend.
"""

import argparse
import json
import os
import tempfile
import time

import numpy as np

from benchmarks.rows import Report
from benchmarks.sides import alternate, peak_memory_mib

IMAGES, BATCH, SIDE = 544, 32, 224


def write_images(folder: str) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = rng.integers(0, 256, (28, 28, 3), np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE)).save(f"{folder}/{number:04d}.jpg", quality=90)


class Files:
    """The image files as a source."""

    name, fingerprint, selection = "random images", "0", {}

    def __init__(self, folder: str):
        self.paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        from capjax.data.source import Example

        return Example(self.paths[index], str(index), ())


def run_capjax(folder: str) -> float:
    import jax
    import jax.numpy as jnp

    from capjax.data.feature_cache import FeatureShape, open_features
    from capjax.data.reading import read_batches
    from capjax.data.resize import Resize
    from capjax.models.encoders.mobilenet_v2 import MobileNetV2
    from capjax.parallel import devices
    from capjax.run.features import make_encode

    source, encoder = Files(folder), MobileNetV2()
    images = jnp.zeros((1, SIDE, SIDE, 3), jnp.uint8)
    variables = jax.jit(lambda key: encoder.init(key, images, train=False))(jax.random.key(0))
    encode, placed = devices.map_local(make_encode(encoder)), devices.replicate(variables)
    started = []

    def compute(batches):
        for pixels in read_batches(source, batches, resize=Resize(SIDE), num_threads=4):
            features = devices.unshard(encode(placed, devices.shard(pixels)))
            started.append(time.perf_counter())
            yield features

    shape = FeatureShape(IMAGES, 49, 1280, (7, 7), 0, "float16")
    with tempfile.TemporaryDirectory() as cache:
        open_features(f"{cache}/features", {}, shape, compute, batch_size=BATCH, name="benchmark")
        return (IMAGES - BATCH) / (time.perf_counter() - started[0])


def run_keras(folder: str) -> float:
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    import keras
    import tensorflow as tf

    from capjax.data.reading import read_batches
    from capjax.data.resize import Resize

    model = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(SIDE, SIDE, 3)
    )

    @tf.function(reduce_retracing=True)
    def encode(pixels):
        return model(tf.cast(pixels, tf.float32) / 127.5 - 1.0, training=False)

    indices = np.arange(IMAGES).reshape(-1, BATCH)
    start = None
    for pixels in read_batches(Files(folder), indices, resize=Resize(SIDE), num_threads=4):
        encode(pixels).numpy()
        start = start or time.perf_counter()
    return (IMAGES - BATCH) / (time.perf_counter() - start)


# Side, channels and stride of MobileNetV2's depthwise convolutions.
SIZES = ((112, 32, 1), (112, 96, 2), (56, 144, 1), (28, 192, 1), (14, 384, 1), (14, 576, 2))
SIZES += ((7, 960, 1),)


def depthwise() -> None:
    import jax
    import jax.numpy as jnp

    from capjax.models.depthwise import grouped, shifted

    print(f"{jax.default_backend()}, batch 8, float32, best of 20\n")
    print("| size | shifted ms | grouped ms |\n|---|---|---|")
    for side, channels, stride in SIZES:
        x = jax.random.normal(jax.random.key(0), (8, side, side, channels))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, channels))
        row = []
        for form in (shifted, grouped):

            def both(x, kernel, form=form, stride=stride):
                return jnp.clip(form(x, kernel, stride) * kernel[0, 0] + kernel[1, 1], 0, 6)

            compiled = jax.jit(both)
            compiled(x, kernel).block_until_ready()
            times = []
            for _ in range(20):
                start = time.perf_counter()
                compiled(x, kernel).block_until_ready()
                times.append(time.perf_counter() - start)
            row.append(f"{1e3 * min(times):.2f}")
        print(f"| {side}x{side}x{channels}, stride {stride} | {row[0]} | {row[1]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--depthwise", action="store_true", help="time the depthwise convolutions")
    parser.add_argument("--side", choices=("keras", "capjax"), help="run one side in this process")
    parser.add_argument("--folder", help="folder of the images, for --side")
    arguments = parser.parse_args()
    if arguments.depthwise:
        depthwise()
        return
    if arguments.side:
        run = run_keras if arguments.side == "keras" else run_capjax
        one = {"seconds": BATCH / run(arguments.folder), "peak_memory_mib": peak_memory_mib()}
        if arguments.side == "capjax":
            from benchmarks.encoder_speed import image_flops

            one["needs"] = {"flops": BATCH * image_flops("mobilenet_v2", SIDE)}
        print(json.dumps(one))
        return
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        write_images(folder)
        sides = ("keras", "capjax")
        found = alternate("feature_speed", sides, arguments.rounds, f"--folder={folder}")
    what = "features of mobilenet_v2 from JPEG files"
    report.add(what, "Keras", *found.values(), count=BATCH, unit="images/s")
    report.close()


if __name__ == "__main__":
    main()
