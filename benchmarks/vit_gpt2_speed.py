"""Captioning and training of ViT-B/16 with GPT-2 small in capjax and in transformers.

    python -m benchmarks.vit_gpt2_speed [--rounds 3] [--task caption train] [--repeats 3]

Both sides read the same folder of random float32 weights, and take the same 8 images of 224x224.
Captioning is a beam search with 4 beams over 16 tokens; the weights of the end token make it so
unlikely that no caption ends before. Its parts are the encoder, the decoding of its output, and
both together (`generate`). Training is a step of AdamW on all parameters with one caption of 16
tokens per image, without dropout or clipping. torch runs eagerly, in inference mode for captions,
with `fused` AdamW, its fastest; capjax runs its own search and training step, compiled before.

The sides take turns in processes of their own with two threads. The figures of a process are
medians over repeats after a first call, and the printed ones medians over rounds. The fraction of
the limit of decoding is by operations, or by the bytes of weights and of the images' keys and
values if these take longer. The number of equal captions and the losses of the first steps are
printed too. The peer needs torch and
transformers: pip install -e ".[parity]".
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

import numpy as np

from benchmarks.rows import Report
from benchmarks.sides import measure, peak_memory_mib, progress, timed, use_two_cores
from benchmarks.torchvision_operators import declare_operators

IMAGES, BEAMS, TOKENS, VOCABULARY = 8, 4, 16, 50257
END = VOCABULARY - 1
RATE = 1e-5
TASKS = {"caption": ("encoder", "decoding", "generate"), "train": ("training step",)}


def save_pair(folder: str) -> None:
    """Writes the random captioner that both sides read."""
    import torch

    declare_operators()
    import transformers

    ids = {"bos_token_id": END, "eos_token_id": END}
    torch.manual_seed(0)
    dropout = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(transformers.ViTConfig()),
        decoder=transformers.GPT2LMHeadModel(
            transformers.GPT2Config(add_cross_attention=True, **dropout, **ids)
        ),
    )
    decoder = model.decoder.transformer
    with torch.no_grad():
        # The last hidden state is a normalised vector plus this bias.
        decoder.ln_f.bias.normal_()
        decoder.wte.weight[END] = -20 / decoder.ln_f.bias.square().sum() * decoder.ln_f.bias
        # Makes captions differ between images and from word to word.
        decoder.wpe.weight.mul_(3)
        for block in decoder.h:
            block.crossattention.c_attn.weight.mul_(4)
            block.crossattention.q_attn.weight.mul_(4)
            block.crossattention.c_proj.weight.mul_(20)
    model.generation_config.update(**ids, decoder_start_token_id=END, pad_token_id=END)
    model.config.update({"decoder_start_token_id": END, "pad_token_id": END})
    model.save_pretrained(folder)


def draw() -> tuple[np.ndarray, np.ndarray]:
    """Draws images uint8 [B, H, W, 3] and captions int32 [B, 1 + T] after the start token."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, END, (IMAGES, TOKENS + 1), np.int32)
    tokens[:, 0] = END
    return rng.integers(0, 256, (IMAGES, 224, 224, 3), np.uint8), tokens


def read_peer(folder: str):
    import torch

    declare_operators()
    import transformers

    torch.set_num_threads(2)
    images, tokens = (torch.from_numpy(array) for array in draw())
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder)
    return model, (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5, tokens.long()


def caption_peer(folder: str) -> dict[str, Callable[[], object]]:
    import torch

    model, pixels, _ = read_peer(folder)
    model.eval()
    options = {"num_beams": BEAMS, "max_length": TOKENS + 1, "do_sample": False}

    @torch.inference_mode()
    def encode():
        return model.encoder(pixel_values=pixels)

    def encoded():
        encode()

    @torch.inference_mode()
    def generate(**inputs):
        return model.generate(**inputs, **options)[:, 1:].tolist()

    memory = encode()
    # A copy, since `generate` expands its input to the beams in place.
    return {
        "encoder": encoded,
        "decoding": lambda: generate(encoder_outputs=type(memory)(**memory)),
        "generate": lambda: generate(pixel_values=pixels),
    }


def train_peer(folder: str) -> dict[str, Callable[[], object]]:
    import torch

    model, pixels, tokens = read_peer(folder)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, fused=True)

    def step():
        optimizer.zero_grad()
        loss = model(pixel_values=pixels, labels=tokens[:, 1:]).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"training step": step}


def read_capjax(folder: str):
    """Reads the model, its variables on the device, and a batch."""
    import jax
    import jax.numpy as jnp

    from capjax.pretrained.captioners.captioner import family_of
    from capjax.pretrained.captioners.read import read_variables
    from capjax.pretrained.checkpoint_folders import read_json
    from capjax.pretrained.vit.read import vit_fields

    at = os.path.join(folder, "config.json")
    config = read_json(at)
    family = family_of(config, at)
    fields = family.read_fields(config, at)
    model = family.module(vit_fields(folder), fields, fields.decoder, jnp.float32)
    images, tokens = draw()
    lengths = np.full((IMAGES, 1), TOKENS + 1, np.int32)
    batch = {"image": images, "tokens": tokens[:, None], "lengths": lengths}
    return model, jax.device_put(read_variables(folder)), batch


def caption_capjax(folder: str) -> dict[str, Callable[[], object]]:
    import types

    import jax

    from capjax.evaluate.captioning import BeamSearch, make_decode
    from capjax.models import few_rows

    model, variables, batch = read_capjax(folder)
    variables = few_rows.prepared(variables)  # As where a run is loaded.
    ids = types.SimpleNamespace(bos_id=END, eos_id=END, pad_id=END)
    method = BeamSearch(BEAMS, length_penalty=1.0, early_stopping=False, max_length=TOKENS + 1)
    decode = make_decode(model, ids, method, attention=False)
    encode = jax.jit(lambda v, images: model.apply(v, images, method="encode"))

    def encoded():
        encode(variables, batch["image"]).values.block_until_ready()

    decode_only = jax.jit(lambda v, memory: decode(v, memory, np.arange(IMAGES)).tokens[:, 0])
    both = jax.jit(
        lambda v, images: decode(
            v, model.apply(v, images, method="encode"), np.arange(IMAGES)
        ).tokens[:, 0]
    )
    memory = encode(variables, batch["image"])
    return {
        "encoder": encoded,
        "decoding": lambda: decode_only(variables, memory).tolist(),
        "generate": lambda: both(variables, batch["image"]).tolist(),
    }


def train_capjax(folder: str) -> dict[str, Callable[[], object]]:
    import optax

    from capjax.parallel import devices
    from capjax.train.objectives.cross_entropy import CrossEntropy
    from capjax.train.optimizer import adamw
    from capjax.train.state import init_state, stack_blocks
    from capjax.train.step import make_train_step

    model, variables, batch = read_capjax(folder)
    optimizer = adamw(optax.constant_schedule(RATE), b1=0.9, b2=0.999, weight_decay=0.01)
    state = init_state(variables["params"], optimizer, ema=False)
    state = stack_blocks(model, state)
    state = devices.replicate(state, donate=True)
    del variables
    update = make_train_step(model, optimizer, seed=0, objective=CrossEntropy())
    update = devices.map_step(update)
    batch = devices.shard(batch)

    def step():
        nonlocal state
        state, metrics = update(state, batch)
        return float(metrics["objective"][0])

    return {"training step": step}


SIDES = {
    "peer": {"caption": caption_peer, "train": train_peer},
    "capjax": {"caption": caption_capjax, "train": train_capjax},
}


def run_side(side: str, task: str, folder: str, repeats: int) -> dict:
    use_two_cores()
    figures = {}
    for name, call in SIDES[side][task](folder).items():
        first, seconds, found = timed(repeats, call)
        figures[name] = {"first": first, "seconds": seconds, "found": found}
    peak = peak_memory_mib()
    if side == "capjax":
        for name, needs in count_needs(folder).items():
            if name in figures:
                figures[name]["needs"] = needs
    return {"figures": figures, "peak_memory_mib": peak}


def count_needs(folder: str) -> dict[str, dict[str, float]]:
    """What each part needs, by its name."""
    from benchmarks.needs import caption_flops, search_needs, training_flops

    model, variables, batch = read_capjax(folder)
    once, each = caption_flops(model, variables, batch["image"][:1], [TOKENS])
    # The product of the pixels, whose patches need no gradient.
    patches = 2 * 196 * 768 * 768
    step = IMAGES * training_flops(patches, once - patches + each)
    found = search_needs(model, variables, batch["image"], BEAMS, TOKENS)
    return found | {"training step": {"flops": step}}


def measure_side(task: str, side: str, folder: str, repeats: int) -> dict:
    """Measures one side in a process of its own."""
    options = ["--side", side, "--task", task, "--folder", folder, "--repeats", str(repeats)]
    found = measure("vit_gpt2_speed", *options)
    seconds = {name: round(one["seconds"], 3) for name, one in found["figures"].items()}
    progress(side, seconds)
    return found


def compare(task: str, rounds: list[list[dict]]) -> None:
    """Prints how far both sides agree."""
    peer, ours = (rounds[0][side]["figures"][TASKS[task][-1]]["found"] for side in range(2))
    if task == "caption":
        same = sum(a == b for a, b in zip(peer, ours, strict=True))
        progress(f"the same caption for {same} of {IMAGES} images")
    else:
        progress(f"first losses: {peer:.5f} and {ours:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each part in a process")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS, help="tasks to measure")
    parser.add_argument("--folder", help="folder of the weights, for --side")
    parser.add_argument("--side", choices=(*SIDES, "save"), help="run one side in this process")
    arguments = parser.parse_args()
    if arguments.side == "save":
        save_pair(arguments.folder)
        return
    if arguments.side:
        task, folder = arguments.task[0], arguments.folder
        print(json.dumps(run_side(arguments.side, task, folder, arguments.repeats)))
        return
    report = Report(two_cores=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.vit_gpt2_speed", "--side", "save"]
        subprocess.run([*command, "--folder", folder], check=True)
        for task in arguments.task:
            rounds = [
                [measure_side(task, side, folder, arguments.repeats) for side in SIDES]
                for _ in range(arguments.rounds)
            ]
            report.add_parts("ViT-B/16 with GPT-2, ", "torch", TASKS[task], rounds)
            compare(task, rounds)
    report.close()


if __name__ == "__main__":
    main()
