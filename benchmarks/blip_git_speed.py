"""Captions of BLIP base and GIT base in capjax and in transformers.

    python -m benchmarks.blip_git_speed [--family blip git] [--rounds 3] [--repeats 3] [--small]

Both sides read the same folder of random float32 weights, and caption the same 8 images of the
family's size by a beam search with 3 beams over 20 tokens; the weights of the end token make it so
unlikely that no caption ends before. "encoder" is the vision tower, "generate" everything from
pixels to tokens, and "decoding" the difference of the two. torch runs eagerly, in inference mode;
of GIT its `generate` encodes each image once for every beam, which is part of "decoding".
`--small` takes models of two blocks and one round, to try the benchmark itself.

The sides take turns in processes of their own with two threads, or one where there is one core. The
figures of a process are medians over repeats after a first call, and the printed ones medians over
rounds. The peer needs torch and transformers: pip install -e ".[parity]".
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

IMAGES, BEAMS, TOKENS = 8, 3, 20
FAMILIES = ("blip", "git")
PARTS = ("encoder", "decoding", "generate")
SMALL = {"num_hidden_layers": 2}


def read_torch():
    import torch

    declare_operators()
    import transformers

    return torch, transformers


def save(family: str, folder: str, small: bool) -> None:
    """Writes the random captioner that both sides read."""
    torch, transformers = read_torch()
    torch.manual_seed(0)
    few = SMALL if small else {}
    if family == "blip":
        # As published; transformers' own default is 8 heads.
        text = {"num_attention_heads": 12, **few}
        config = transformers.BlipConfig(text_config=text, vision_config=few)
        model = transformers.BlipForConditionalGeneration(config)
        decoder, end = model.text_decoder, config.text_config.sep_token_id
        bias = decoder.cls.predictions.bias
    else:
        config = transformers.GitConfig(vision_config=few, **few)
        model = transformers.GitForCausalLM(config)
        decoder, end, bias = model, config.eos_token_id, model.output.bias
    with torch.no_grad():
        # Makes captions differ from word to word.
        for name, parameter in decoder.named_parameters():
            if parameter.ndim == 2 and "image_encoder" not in name:
                parameter.mul_(4)
        bias[end] = -1000
    model.save_pretrained(folder)


def read_images(folder: str) -> np.ndarray:
    """Draws the images, uint8 [B, H, W, 3]."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        size = json.load(file)["vision_config"]["image_size"]
    return np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), np.uint8)


def peer(family: str, folder: str) -> dict[str, Callable[[], object]]:
    torch, transformers = read_torch()
    torch.set_num_threads(use_two_cores())
    kinds = {"blip": "BlipForConditionalGeneration", "git": "GitForCausalLM"}
    model = getattr(transformers, kinds[family]).from_pretrained(folder).eval()
    tower = model.vision_model if family == "blip" else model.git.image_encoder
    images = torch.from_numpy(read_images(folder))
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    options = {"num_beams": BEAMS, "max_length": TOKENS + 1, "do_sample": False}

    @torch.inference_mode()
    def encoded():
        tower(pixel_values=pixels)

    @torch.inference_mode()
    def generate():
        return model.generate(pixel_values=pixels, **options)[:, 1:].tolist()

    return {"encoder": encoded, "generate": generate}


def read_capjax(family: str, folder: str):
    """Reads the model, its variables on the device, the ids of its tokens, and the images."""
    import types

    import jax
    import jax.numpy as jnp

    from capjax.pretrained.captioners.captioner import FAMILIES as KINDS
    from capjax.pretrained.captioners.read import read_variables
    from capjax.pretrained.checkpoint_folders import read_json
    from capjax.pretrained.vit.read import vit_fields

    at = os.path.join(folder, "config.json")
    config, kind = read_json(at), KINDS.get(family)
    fields = kind.read_fields(config, at)
    encoder = {**vit_fields(folder), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = kind.module(encoder, fields, fields.decoder, jnp.float32)
    section = config["text_config"] if family == "blip" else config
    end = section["sep_token_id" if family == "blip" else "eos_token_id"]
    ids = types.SimpleNamespace(
        bos_id=section["bos_token_id"], eos_id=end, pad_id=0, vocab_size=section["vocab_size"]
    )
    return model, jax.device_put(read_variables(folder)), ids, read_images(folder)


def capjax(family: str, folder: str) -> dict[str, Callable[[], object]]:
    import jax

    from capjax.evaluate.captioning import BeamSearch, make_decode

    model, variables, ids, images = read_capjax(family, folder)
    method = BeamSearch(BEAMS, length_penalty=1.0, early_stopping=False, max_length=TOKENS + 1)
    decode = make_decode(model, ids, method, attention=False)
    encode = jax.jit(lambda v, images: model.apply(v, images, method="encode"))
    both = jax.jit(
        lambda v, images: decode(
            v, model.apply(v, images, method="encode"), np.arange(IMAGES)
        ).tokens[:, 0]
    )

    def encoded():
        encode(variables, images).values.block_until_ready()

    return {"encoder": encoded, "generate": lambda: both(variables, images).tolist()}


SIDES = {"peer": peer, "capjax": capjax}


def run_side(side: str, family: str, folder: str, repeats: int) -> dict:
    use_two_cores()  # Before JAX counts them.
    figures = {}
    for name, call in SIDES[side](family, folder).items():
        first, seconds, found = timed(repeats, call)
        figures[name] = {"first": first, "seconds": seconds, "found": found}
    encoder, generate = (figures[name] for name in ("encoder", "generate"))
    gap = {name: generate[name] - encoder[name] for name in ("first", "seconds")}
    figures, peak = {**figures, "decoding": gap}, peak_memory_mib()
    if side == "capjax":
        from benchmarks.needs import search_needs

        model, variables, _, images = read_capjax(family, folder)
        for name, needs in search_needs(model, variables, images, BEAMS, TOKENS).items():
            figures[name]["needs"] = needs
    return {"figures": figures, "peak_memory_mib": peak}


def compare(family: str, rounds: list[list[dict]]) -> None:
    """Prints how many captions are the same."""
    peer, ours = (rounds[0][side]["figures"]["generate"]["found"] for side in range(2))
    same = sum(a == b for a, b in zip(peer, ours, strict=True))
    words = min(len(set(row)) for row in peer)
    progress(f"the same caption for {same} of {IMAGES} images, of {words} words or more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each side")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each part in a process")
    parser.add_argument("--small", action="store_true", help="small models, once")
    parser.add_argument("--folder", help="folder of the weights, for --side")
    parser.add_argument("--side", choices=(*SIDES, "save"), help="run one side in this process")
    given = parser.parse_args()
    family = given.family[0]
    if given.side == "save":
        save(family, given.folder, given.small)
        return
    if given.side:
        print(json.dumps(run_side(given.side, family, given.folder, given.repeats)))
        return
    rounds, repeats = (1, 1) if given.small else (given.rounds, given.repeats)
    report = Report(two_cores=True)
    for family in given.family:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--family", family, "--folder", folder, "--repeats", str(repeats)]
            command = [sys.executable, "-m", "benchmarks.blip_git_speed", *options]
            small = ["--small"] if given.small else []
            subprocess.run([*command, "--side", "save", *small], check=True)
            found = [
                [measure("blip_git_speed", *options, "--side", side) for side in SIDES]
                for _ in range(rounds)
            ]
        report.add_parts(f"{family} ", "torch", PARTS, found)
        compare(family, found)
    report.close()


if __name__ == "__main__":
    main()
