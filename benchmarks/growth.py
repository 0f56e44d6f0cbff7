"""How time and memory grow with each size of a model, and with the number of captions.

    python -m benchmarks.growth [--sizes tokens vocabulary] [--captions 1000 10000] [--repeats 2]

A transformer decoder over features has the sizes of `START`, and one of them changes at a time as
`GROWN` says. "train" is a step of AdamW on 8 images of 5 captions, "captions" a beam search for the
8 images in which no caption ends early. MiB are what XLA reserves for a program beside its
arguments; those of "train" are the parameters, their two moments and the batch.

Captions, five an image and ten words each, are an index without pictures. A start reads them,
trains a tokenizer of all their words, encodes them and lays out a batch; the second start finds the
files of the first one. Each is a process of its own; MiB are all of its memory, and the import of
libraries is not counted in its seconds.
"""

import argparse
import json
import statistics
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.sides import measure, peak_memory_mib

IMAGES, CAPTIONS, WORDS = 8, 5, 10
WHICH = ("first start", "second start")
_BLOCK = 1_000
START = {"tokens": 20, "vocabulary": 8_000, "width": 256, "positions": 49, "beams": 4}
GROWN = {
    "tokens": (10, 20, 40, 80),
    "vocabulary": (2_000, 8_000, 50_257, 250_000),
    "width": (128, 256, 512, 1024),
    "positions": (49, 196, 784),
    "beams": (1, 4, 16),
}


def program(sizes: dict[str, int], task: str) -> tuple[Any, Callable[[], Any]]:
    """A compiled program of `task`, and a call of it that waits for its result."""
    import jax
    import jax.numpy as jnp
    import optax

    from benchmarks.accelerator_capjax import random_variables
    from capjax.evaluate.captioning import BeamSearch, make_decode
    from capjax.models.captioner import Captioner, FeatureEncoder
    from capjax.models.contract import Memory
    from capjax.models.decoders.transformer import TransformerDecoder
    from capjax.parallel import devices
    from capjax.train.objectives.cross_entropy import CrossEntropy
    from capjax.train.optimizer import adamw
    from capjax.train.state import init_state
    from capjax.train.step import make_train_step

    tokens, words, positions = sizes["tokens"], sizes["vocabulary"], sizes["positions"]
    end = words - 1
    decoder = TransformerDecoder(words, tokens, sizes["width"], 4, 8, banned=(end,))
    model = Captioner(FeatureEncoder((1, positions)), decoder)
    features = np.random.default_rng(0).normal(size=(IMAGES, positions, sizes["width"]))
    features = features.astype(np.float32)
    variables = random_variables(model, features.shape[1:])
    if task == "captions":
        ids = types.SimpleNamespace(bos_id=end, eos_id=end, pad_id=end)
        method = BeamSearch(
            sizes["beams"], length_penalty=1.0, early_stopping=False, max_length=tokens + 1
        )
        decode = make_decode(model, ids, method, attention=False)
        memory, index = Memory(jnp.asarray(features), (1, positions)), np.arange(IMAGES)
        variables = jax.device_put(variables)
        compiled = jax.jit(decode).lower(variables, memory, index).compile()
        return compiled, lambda: jax.block_until_ready(compiled(variables, memory, index))
    optimizer = adamw(optax.constant_schedule(1e-5), b1=0.9, b2=0.999, weight_decay=0.01)
    state = devices.replicate(init_state(variables["params"], optimizer, ema=False))
    shape = (IMAGES, CAPTIONS, tokens + 1)
    batch = {
        "features": features,
        "tokens": np.random.default_rng(1).integers(0, end, shape, np.int32),
        "lengths": np.full(shape[:2], tokens, np.int32),
    }
    batch = devices.shard(batch)
    update = make_train_step(model, optimizer, seed=0, objective=CrossEntropy())
    mapped: Any = devices.map_devices(update, donate=(0,))
    compiled = mapped.lower(state, batch).compile()

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        return float(metrics["objective"][0])

    return compiled, step


def figures(sizes: dict[str, int], task: str, repeats: int) -> tuple[float, float]:
    """Milliseconds of a call, and MiB of the program."""
    compiled, call = program(sizes, task)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return 1000 * statistics.median(seconds[1:]), memory


class Written:
    """A source of captions of random words, without pictures."""

    name, selection = "written", types.MappingProxyType({})

    def __init__(self, captions: int):
        """Makes `captions` captions, five an image."""
        self.fingerprint = f"{captions:08x}"
        self._images = captions // CAPTIONS
        self._block: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self._images

    def __getitem__(self, index: int):
        from capjax.data.source import Example

        # By the number of the block, so that a source holds no others.
        number, place = divmod(index, _BLOCK)
        if self._block[0] != number:
            random = np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 0, number]))
            self._block = number, random.zipf(1.3, (_BLOCK, CAPTIONS, WORDS)) % 8000
        rows = self._block[1][place].tolist()
        captions = (" ".join(f"w{word}" for word in row) for row in rows)
        return Example("", f"image {index}", tuple(captions))


def start(captions: int, folder: str) -> dict[str, float]:
    """Seconds and MiB of a start whose cached files are in `folder`."""
    from capjax.data.batches import TrainBatches
    from capjax.data.caption_cache import open_encoded, open_tokenizer
    from capjax.data.captions import read_captions

    began = time.perf_counter()
    table = read_captions(Written(captions), folder)
    tokenizer = open_tokenizer(table, {"kind": "words"}, folder)
    encoded = open_encoded(table, tokenizer, folder, max_length=20, over_length="drop")
    plan = {"batch_size": 32, "captions_per_image": CAPTIONS, "seed": 0, "length_bucket": 4}
    TrainBatches(encoded, tokenizer, packed=True, **plan)(0)
    return {"seconds": time.perf_counter() - began, "MiB": peak_memory_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="*", choices=GROWN, default=GROWN, help="sizes to change")
    parser.add_argument("--captions", nargs="*", type=int, default=(1_000, 10_000, 100_000))
    parser.add_argument("--repeats", type=int, default=2, help="calls after a first one")
    parser.add_argument("--start", nargs=2, help="captions, and a folder: one start, here")
    arguments = parser.parse_args()
    if arguments.start:
        print(json.dumps(start(int(arguments.start[0]), arguments.start[1])))
        return
    if arguments.sizes:
        print("| size | | train ms | train MiB | captions ms | captions MiB |\n" + "|---" * 6 + "|")
    for name in arguments.sizes:
        for value in GROWN[name]:
            sizes, row = START | {name: value}, []
            for task in ("train", "captions"):
                if (name, task) == ("beams", "train"):
                    row += ["", ""]
                else:
                    row += [f"{x:.0f}" for x in figures(sizes, task, arguments.repeats)]
            print(f"| {name} | {value:,} | {' | '.join(row)} |", flush=True)
    if arguments.captions:
        columns = ("captions", *(f"{which} {what}" for which in WHICH for what in ("s", "MiB")))
        print(f"\n| {' | '.join(columns)} |\n" + "|---" * len(columns) + "|")
    for count in arguments.captions:
        with tempfile.TemporaryDirectory() as folder:
            found = [measure("growth", "--start", str(count), folder) for _ in WHICH]
        row = " | ".join(f"{one['seconds']:.2f} | {one['MiB']:.0f}" for one in found)
        print(f"| {count:,} | {row} |", flush=True)


if __name__ == "__main__":
    main()
