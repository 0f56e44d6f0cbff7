"""Speed of capjax on one GPU or TPU, beside PyTorch and transformers where these are installed.

    python -m benchmarks.accelerator [--only PART ...] [--quick] [--json FILE]

limits     a matrix product of 8192 x 8192 in bfloat16, and a copy of 2 GB: what the card gives.
training   ViT-B/16 with GPT-2 small, one caption of 16 tokens an image, AdamW, bfloat16 with
           float32 parameters; several batch sizes.
cached     a decoder on cached features of the size of Flickr8k's (49 x 1280), 5 captions an image.
encoders   images/s of ViT-B/16, ResNet-101 and MobileNetV2, bfloat16.
captions   ViT-B/16 with GPT-2 small, beam search with 4 beams over 16 tokens, bfloat16.

The peer of each is the same model in torch: compiled by `torch.compile`, in bfloat16 by autocast in
training and by its weights elsewhere, with torch's own attention kernels and fused AdamW; captions
are by `transformers.generate`, eager, as its users have it. Weights are random; end tokens are
never likely, so no caption ends early.

A part of a side is a process of its own. A figure is the median of `ROUNDS` timed windows, after
two calls that are not timed. TFLOP/s count the matrix products and convolutions of the forward pass
(three times that for training), of both sides by capjax's program, and are given as a share of the
measured limit. A part that fails says why, and the others go on.
"""

import argparse
import importlib
import json
import subprocess
import sys
from typing import Any

BATCHES = {"training": (128, 256, 32), "captions": (8, 64), "encoders": (256,), "cached": (512, 64)}
ENCODERS = ("vit_b16", "resnet101", "mobilenet_v2")
# A part that takes longer has failed.
MOST_SECONDS = 240


def run_part(part: str, side: str, batch: int, name: str) -> dict[str, Any]:
    """One figure of one side, in this process."""
    module = "accelerator_torch" if side == "peer" else "accelerator_capjax"
    sides = importlib.import_module(f"benchmarks.{module}")
    if part == "limits":
        return sides.limits()
    function = getattr(sides, f"{part}_{side}")
    return function(batch, name) if part == "encoders" else function(batch)


def measure(*arguments: str) -> dict[str, Any]:
    """Runs a part in a process of its own; {"error": reason} if it fails."""
    command = [sys.executable, "-m", "benchmarks.accelerator", "--one", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {MOST_SECONDS} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        print(done.stderr[-3000:], file=sys.stderr)
        return {"error": lines[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


def rate(batch: int, found: dict[str, Any]) -> str:
    return found["error"] if "error" in found else f"{batch / found['seconds']:.0f}"


def compare(part: str, batch: int, name: str, peak: float) -> dict[str, Any]:
    """Measures both sides and prints their row."""
    ours, peer = (measure(part, side, str(batch), name) for side in ("capjax", "peer"))
    row = {"part": part, "model": name, "batch": batch, "capjax": ours, "peer": peer}
    ratio = share = achieved = "-"
    if "error" not in ours and "error" not in peer:
        ratio = f"{peer['seconds'] / ours['seconds']:.2f}"
    if "flops" in ours:
        value = ours["flops"] / ours["seconds"] / 1e12
        achieved = f"{value:.1f}"
        share = f"{value / peak:.2f}" if peak else "-"
    memory = [f"{side['memory GB']:.1f}" if "memory GB" in side else "-" for side in (ours, peer)]
    first = [
        f"{side['first call s']:.0f}" if "first call s" in side else "-" for side in (ours, peer)
    ]
    cells = [part, name, str(batch), rate(batch, ours), rate(batch, peer), ratio, achieved, share]
    print("| " + " | ".join([*cells, *first, *memory]) + " |", flush=True)
    return row


def main() -> None:
    parts = ("training", "captions", "cached", "encoders")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to measure")
    parser.add_argument("--quick", action="store_true", help="the first batch size of each part")
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        part, side, batch, name = (*arguments.one, "", "", "")[:4]
        print(json.dumps(run_part(part, side, int(batch or 0), name)))
        return
    # In a process of its own, since this one must not hold the card's memory.
    found: dict[str, Any] = {"limits": measure("limits"), "rows": []}
    print(found["limits"], flush=True)
    print(
        "| part | model | batch | capjax images/s | torch images/s | ratio | TFLOP/s | of limit | "
        "first s | torch | GB | torch |"
    )
    print("|---" * 12 + "|", flush=True)
    for part in arguments.only:
        names = ENCODERS if part == "encoders" else ("ViT-B + GPT-2",)
        names = ("decoder",) if part == "cached" else names
        for name in names:
            for batch in BATCHES[part][: 1 if arguments.quick else None]:
                row = compare(part, batch, name, found["limits"].get("TFLOP/s", 0.0))
                found["rows"].append(row)
                if arguments.json:
                    with open(arguments.json, "w") as file:
                        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
