"""Five samples an image of ViT-B/16 with GPT-2 small in capjax and in transformers.

    python -m benchmarks.sampling_speed [--rounds 1] [--repeats 2] [--images 8] [--samples 5]

Both sides read the same folder of random float32 weights and take the same images of 224x224; see
`benchmarks.vit_gpt2_speed`. They draw `--samples` captions of 16 tokens of each image at
temperature 1 from the whole vocabulary: transformers by `generate(do_sample=True,
num_return_sequences=5)`. "decoding" has the encoder's output, "generate" images. No caption ends
early.

The sides take turns in processes of their own with two threads. The figures of a process are
medians over repeats after a first call, and the printed ones medians over rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable

import numpy as np

from benchmarks.sides import measure, peak_memory_mib, use_two_cores
from benchmarks.vit_gpt2_speed import END, IMAGES, TOKENS, read_capjax, read_peer, timed

PARTS = ("decoding", "generate")


def sample_peer(folder: str, images: int, samples: int) -> dict[str, Callable[[], object]]:
    """Samples by transformers."""
    import torch

    model, pixels, _ = read_peer(folder)
    model.eval()
    pixels = pixels[:images]
    # No top-k, which transformers would else set to 50.
    options = {
        "do_sample": True,
        "num_return_sequences": samples,
        "top_k": 0,
        "max_length": TOKENS + 1,
    }

    @torch.inference_mode()
    def encode():
        return model.encoder(pixel_values=pixels)

    @torch.inference_mode()
    def generate(**inputs):
        return model.generate(**inputs, **options)[:, 1:].tolist()

    memory = encode()
    # A copy, since `generate` expands its input in place.
    return {
        "decoding": lambda: generate(encoder_outputs=type(memory)(**memory)),
        "generate": lambda: generate(pixel_values=pixels),
    }


def sample_capjax(folder: str, images: int, samples: int) -> dict[str, Callable[[], object]]:
    """Samples by capjax, compiled before."""
    import jax

    from capjax.evaluate.captioning import make_decode
    from capjax.evaluate.methods import Sampling

    model, variables, batch = read_capjax(folder)
    pixels, index = batch["image"][:images], np.arange(images)
    ids = types.SimpleNamespace(bos_id=END, eos_id=END, pad_id=END)
    method = Sampling(1.0, max_length=TOKENS + 1, num_captions=samples)
    decode = make_decode(model, ids, method, attention=False)
    encode = jax.jit(lambda v, images: model.apply(v, images, method="encode"))
    decode_only = jax.jit(lambda v, memory: decode(v, memory, index).tokens)
    both = jax.jit(lambda v, images: decode_only(v, encode(v, images)))
    memory = encode(variables, pixels)
    return {
        "decoding": lambda: decode_only(variables, memory).tolist(),
        "generate": lambda: both(variables, pixels).tolist(),
    }


SIDES = {"transformers": sample_peer, "capjax": sample_capjax}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1, help="number of runs of each side")
    parser.add_argument("--repeats", type=int, default=2, help="repeats of each part in a process")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"images, at most {IMAGES}")
    parser.add_argument("--samples", type=int, default=5, help="samples of an image")
    parser.add_argument("--folder", help="folder of the weights, for --side")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process")
    arguments = parser.parse_args()
    if arguments.side:
        use_two_cores()
        side = SIDES[arguments.side](arguments.folder, arguments.images, arguments.samples)
        figures = {}
        for name, call in side.items():
            first, seconds, found = timed(arguments.repeats, call)
            count = np.asarray(found).reshape(-1, TOKENS).shape[0]
            figures[name] = {"first": first, "seconds": seconds, "captions": count}
        print(json.dumps({"figures": figures, "peak_memory_mib": peak_memory_mib()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.vit_gpt2_speed", "--side", "save"]
        subprocess.run([*command, "--folder", folder], check=True)
        options = ["--folder", folder, "--repeats", str(arguments.repeats)]
        options += ["--images", str(arguments.images), "--samples", str(arguments.samples)]
        runs: dict[str, list[dict]] = {side: [] for side in SIDES}
        for _ in range(arguments.rounds):
            for side, done in runs.items():
                done.append(measure("sampling_speed", "--side", side, *options))
                print(side, done[-1], file=sys.stderr, flush=True)
    print("| part | captions | transformers s | capjax s | ratio | first call s |")
    print("|---" * 6 + "|")
    for name in PARTS:
        own = {side: [run["figures"][name] for run in found] for side, found in runs.items()}
        peer, ours = (statistics.median(one["seconds"] for one in found) for found in own.values())
        first = own["capjax"][0]
        print(
            f"| {name} | {first['captions']} | {peer:.2f} | {ours:.2f} | {peer / ours:.2f} | "
            f"{first['first']:.1f} |"
        )
    peaks = {side: round(found[0]["peak_memory_mib"]) for side, found in runs.items()}
    print(f"peak MiB: {peaks}")


if __name__ == "__main__":
    main()
