"""Images per second that a CPU core reads, decodes, crops, flips and resizes: capjax and peers.

    python -m benchmarks.feeding [--rounds 3] [--cores 1] [--images FOLDER] [--whole] [--parts]
                                 [--peers tf.data ...] [--threads 1 2 ...]

The images are JPEG files of 500x375, of random fields with the 1/f spectrum of photographs, or
those of a folder. All sides take random crops of at least half of an image, by the law of
`Augmentation`, flip half of them, resize them to 224x224 by an antialiased bilinear filter, and
make shuffled batches of 32, uint8; with `--whole` they neither crop nor flip. The sides take turns
in processes of their own, which have one core from their start on, or `--cores`; the first batches
are not counted. A process's CPU is without that of its workers.

tf.data         its own ops: the fused decoding of a crop, and as many threads as it finds best.
grain           a `MapDataset` that reads by Pillow, in a thread for each core.
grain-process   the same in a process for each core.
capjax          `train_batches` from files, with `dataset.num_threads` a core of `--threads`.

`--parts` prints what each step of reading an image takes in one thread, beside libjpeg's decoding
at half of the size (Pillow's `draft`), and how far the pixels of the peers are from capjax's. grain
is left out where it is not installed (`pip install -e ".[benchmark]"`).
"""

import argparse
import importlib.util
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.rows import Report
from benchmarks.sides import alternate, cores, peak_memory_mib, progress, use_cores

IMAGES, WIDTH, HEIGHT, BATCH, SIDE, AREA = 512, 500, 375, 32, 224, 0.5
WARM, TIMED = 8, 30  # Batches.
PEERS = ("tf.data", "grain", "grain-process")


def write_images(folder: str) -> None:
    """Writes photographs as a decoder sees them: brightness and colours of a 1/f spectrum."""
    from PIL import Image

    rng = np.random.default_rng(0)
    across, down = np.fft.rfftfreq(WIDTH), np.fft.fftfreq(HEIGHT)[:, None]
    frequency = np.hypot(across, down)
    frequency[0, 0] = np.inf
    for number in range(IMAGES):
        planes = np.fft.rfft2(rng.standard_normal((3, HEIGHT, WIDTH))) / frequency
        fields = np.fft.irfft2(planes, (HEIGHT, WIDTH))
        fields *= np.array([50, 16, 16])[:, None, None] / fields.std((1, 2), keepdims=True)
        levels = np.moveaxis(fields + 128, 0, -1).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(levels, "YCbCr").convert("RGB")
        picture.save(f"{folder}/{number:04d}.jpg", quality=90)


def has_grain() -> bool:
    return importlib.util.find_spec("grain") is not None


def find_images(folder: str) -> list[str]:
    names = sorted(name for name in os.listdir(folder) if name.endswith((".jpg", ".jpeg")))
    return [os.path.join(folder, name) for name in names]


def run_tensorflow(paths: list[str], whole: bool) -> Iterator[np.ndarray]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    def load(path):
        content = tf.io.read_file(path)
        if whole:
            pixels = tf.io.decode_jpeg(content, 3)
        else:
            begin, size, _ = tf.image.sample_distorted_bounding_box(
                tf.io.extract_jpeg_shape(content),
                tf.zeros((1, 0, 4)),
                min_object_covered=0.0,
                aspect_ratio_range=(3 / 4, 4 / 3),
                area_range=(AREA, 1.0),
                max_attempts=10,
                use_image_if_no_bounding_boxes=True,
            )
            window = tf.concat((begin[:2], size[:2]), 0)
            pixels = tf.image.random_flip_left_right(tf.io.decode_and_crop_jpeg(content, window, 3))
        resized = tf.image.resize(pixels, (SIDE, SIDE), antialias=True)
        return tf.cast(resized + 0.5, tf.uint8)

    files = tf.data.Dataset.from_tensor_slices(paths)
    if not whole:
        files = files.shuffle(len(paths))
    images = files.repeat().map(load, tf.data.AUTOTUNE)
    return images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


class LoadWithPillow:
    """What a user of grain gives `random_map`."""

    def __init__(self, whole: bool):
        self.whole = whole

    def __call__(self, path: str, rng: np.random.Generator) -> np.ndarray:
        from PIL import Image

        from capjax.data.augment import Augmentation, draw_view

        crop, flip = None, False
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        if not self.whole:
            number = int(rng.integers(2**31))
            crop, flip = draw_view(Augmentation(AREA, True), 0, number, picture.size)
        resized = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=crop)
        if flip:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(resized)


def run_grain(paths: list[str], whole: bool, processes: int) -> Iterator[np.ndarray]:
    import grain
    from absl import flags

    files = grain.MapDataset.source(paths).seed(0)
    images = (files if whole else files.shuffle()).repeat().random_map(LoadWithPillow(whole))
    threads = 0 if processes else cores()
    batches = images.batch(BATCH).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * max(threads, 1))
    )
    if processes:
        flags.FLAGS.mark_as_parsed()  # Its workers ask for its flags.
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(processes, 2))
    return iter(batches)


def run_capjax(paths: list[str], whole: bool, threads: int) -> Iterator[np.ndarray]:
    from capjax.data.augment import Augmentation
    from capjax.data.captions import encode_captions, read_captions
    from capjax.data.files_source import FilesSource
    from capjax.data.pipeline import train_batches
    from capjax.data.resize import Resize
    from capjax.data.source import Example
    from capjax.data.tokenizer import train_word_tokenizer

    folder = os.path.dirname(paths[0])
    names = [os.path.basename(path) for path in paths]
    examples = [Example(name, name, ("a photograph",)) for name in names]
    source = FilesSource("photographs", folder, examples)
    tokenizer = train_word_tokenizer(["a photograph"])
    table = read_captions(source, None)
    batches = train_batches(
        source,
        encode_captions(table, tokenizer, max_length=8, over_length="drop"),
        tokenizer,
        batch_size=BATCH,
        captions_per_image=1,
        resize=Resize(SIDE),
        seed=0,
        num_threads=threads,
        augmentation=None if whole else Augmentation(AREA, True),
    )
    return (batch["image"] for batch in batches)


def run(side: str, folder: str, whole: bool) -> dict[str, float]:
    """Seconds of a batch, and milliseconds that this process's CPU works for an image."""
    paths = find_images(folder)
    if side == "tf.data":
        batches = run_tensorflow(paths, whole)
    elif side.startswith("grain"):
        batches = run_grain(paths, whole, cores() if side == "grain-process" else 0)
    else:
        batches = run_capjax(paths, whole, int(side) * cores())
    for _ in range(WARM):
        assert next(batches).shape == (BATCH, SIDE, SIDE, 3)
    start, worked = time.perf_counter(), time.process_time()
    for _ in range(TIMED):
        next(batches)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    found = {"seconds": seconds / TIMED, "cpu_ms": 1e3 * worked / TIMED / BATCH}
    return found | {"peak_memory_mib": peak_memory_mib()}


def parts(folder: str) -> None:
    """Prints the median milliseconds of each step, and the distance of the peers' pixels."""
    from PIL import Image

    from capjax.data import jpeg
    from capjax.data.augment import Augmentation, draw_view
    from capjax.data.images import load_pixels
    from capjax.data.resize import Resize, to_square

    found: dict[str, list[float]] = {}

    def timed(name: str, call: Callable):
        start = time.perf_counter()
        result = call()
        found.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result

    def read(path):
        with open(path, "rb") as file:
            return file.read()

    paths, how = find_images(folder), Resize(SIDE)
    for number, path in enumerate(paths[:256]):
        content = timed("read the file", lambda path=path: read(path))
        opened = timed("its header", lambda content=content: Image.open(io.BytesIO(content)))
        timed("look for damage", lambda content=content: jpeg.fault(content))
        timed("decode", opened.load)
        draw = (Augmentation(AREA, True), 0, number, opened.size)
        crop, flip = timed("draw the crop", lambda draw=draw: draw_view(*draw))
        view = {"crop": crop, "flip": flip}
        timed("crop, resize, flip", lambda o=opened, view=view: to_square(o, how, **view))
        timed("all, by load_pixels", lambda path=path, view=view: load_pixels(path, how, **view))
        opened = Image.open(io.BytesIO(content))
        opened.draft("RGB", (WIDTH // 2, HEIGHT // 2))
        timed("decode at half the size", opened.load)
    for name, times in found.items():
        print(f"{name:24} {statistics.median(times):.3f} ms")
    ours = np.stack([load_pixels(path, how).astype(int) for path in paths[:BATCH]])
    theirs = {"tf.data": next(run_tensorflow(paths, True))}
    if has_grain():
        theirs["grain"] = next(run_grain(paths, True, 0))
    for name, pixels in theirs.items():
        distance = np.abs(pixels - ours)
        print(f"{name}: {distance.mean():.3f} levels from capjax on average, {distance.max()} most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--cores", type=int, default=1, help="cores that a side has")
    parser.add_argument("--threads", nargs="+", default=["1"], help="of capjax, for each core")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--images", help="folder of JPEG files; by default they are made")
    parser.add_argument("--whole", action="store_true", help="neither crop nor flip")
    parser.add_argument("--parts", action="store_true", help="time the steps of reading an image")
    parser.add_argument(
        "--side", help="run a peer, or capjax with so many threads, in this process"
    )
    given = parser.parse_args()
    if given.side:
        print(json.dumps(run(given.side, given.images, given.whole)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not given.images:
            write_images(folder)
        images = given.images or folder
        sizes = [os.path.getsize(path) for path in find_images(images)]
        progress(f"{len(sizes)} images of {np.mean(sizes) / 1e3:.0f} KB on average")
        if given.parts:
            use_cores(given.cores)
            parts(images)
            return
        peers = [peer for peer in given.peers if "grain" not in peer or has_grain()]
        if len(peers) < len(given.peers):
            progress("without grain, which is not installed")
        # The limits are those of the whole machine, as in the other benchmarks.
        report = Report()
        use_cores(given.cores)
        arguments = [f"--images={images}", *(["--whole"] if given.whole else [])]
        found = alternate("feeding", [*peers, *given.threads], given.rounds, *arguments)
    what = f"feeding {'whole photographs' if given.whole else 'crops of photographs'}"
    what += f" from {given.cores} core(s)"
    shown = {"count": BATCH, "unit": "images/s"}
    first, *more = given.threads
    for peer in peers:
        report.add(what, peer, found[peer], found[first], **shown)
    for threads in more:
        with_threads = f"{what}, {threads} threads a core"
        report.add(with_threads, f"capjax with {first}", found[first], found[threads], **shown)
    for side, runs in found.items():
        name = side if side in peers else f"capjax with {side}"
        progress(f"{name}: {statistics.median(run['cpu_ms'] for run in runs):.2f} ms of CPU each")
    report.close()


if __name__ == "__main__":
    main()
