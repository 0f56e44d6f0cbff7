"""Training steps of BLIP base: all parameters, the frozen encoder's, and adapters; beside torch.

    python -m benchmarks.lora_memory [--batch 8] [--size 384] [--steps 5] [--side capjax torch]

Random float32 weights of BLIP base, images of 384x384 with one caption of 20 tokens each, AdamW,
without dropout. "encoder" freezes the ViT; "lora" has adapters of rank 8 on all queries and values
(PEFT: also on the keys of the ViT, whose layer is one). torch runs eagerly, with `fused` AdamW.
Each case runs in a process of its own. Printed are seconds per step, the median after a first one,
peak memory (of the GPU, if there is one; else resident), and the bytes of a checkpoint: the trained
parameters with the moments of AdamW.
"""

import argparse
import json
import statistics
import time

import numpy as np

from benchmarks.sides import measure, peak_memory_mib

CASES = ("full", "encoder", "lora")
RANK, ALPHA, TOKENS, RATE = 8, 16.0, 20, 1e-5
PATCH, WIDTH, WORDS = 16, 768, 30524


def _capjax(case: str, batch: int, size: int, steps: int) -> dict:
    import jax
    import jax.numpy as jnp
    import optax

    from capjax.models.captioner import Captioner, split_frozen
    from capjax.models.decoders.blip import BlipDecoder
    from capjax.models.encoders.vit import ViT
    from capjax.models.lora_fields import Lora
    from capjax.parallel import devices
    from capjax.train.objectives.cross_entropy import CrossEntropy
    from capjax.train.state import init_state
    from capjax.train.step import make_train_step

    lora = Lora(RANK, ALPHA, 0.0, ("query", "value")) if case == "lora" else None
    fields = {"norm": "post", "activation": "gelu_exact", "epsilon": 1e-12}
    decoder = BlipDecoder(WORDS, 512, WIDTH, 12, 12, **fields)
    encoder = ViT(PATCH, WIDTH, 12, 12, 4 * WIDTH, (size // PATCH,) * 2)
    model = Captioner(encoder, decoder, lora=lora)
    variables = model.init_variables(jax.random.key(0), (size, size, 3))
    frozen = {"full": (), "encoder": ("encoder",), "lora": ("encoder", "decoder")}[case]
    params, frozen = split_frozen(variables, frozen)
    optimizer = optax.adamw(RATE)
    step = devices.map_devices(
        make_train_step(model, optimizer, seed=0, objective=CrossEntropy()), donate=(0,)
    )
    state = devices.replicate(init_state(params, optimizer, ema=False, frozen=frozen))
    rng = np.random.default_rng(0)
    rows = {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "tokens": rng.integers(5, 30_000, (batch, 1, TOKENS + 1), np.int32),
        "lengths": np.full((batch, 1), TOKENS, np.int32),
    }
    rows = devices.shard(rows)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state.opt_state)))
    del variables, params
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, metrics = step(state, rows)
        jax.block_until_ready((jnp.asarray(metrics["objective"]), state))
        seconds.append(time.perf_counter() - start)
    memory = jax.local_devices()[0].memory_stats() or {}
    peak = memory["peak_bytes_in_use"] / 2**20 if memory else peak_memory_mib()
    return {"seconds": statistics.median(seconds[1:]), "peak": peak, "kept": kept / 2**20}


def _torch(case: str, batch: int, size: int, steps: int) -> dict:
    import torch

    from benchmarks.torchvision_operators import declare_operators

    declare_operators()
    import transformers

    vision = {"image_size": size, "patch_size": PATCH}
    text = {"num_attention_heads": 12}
    config = transformers.BlipConfig(vision_config=vision, text_config=text)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.BlipForConditionalGeneration(config).to(device).train()
    if case == "encoder":
        model.vision_model.requires_grad_(requires_grad=False)
    if case == "lora":
        import peft

        names = ["query", "value", "qkv"]
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names)
        )
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    pixels = torch.randn(batch, 3, size, size, device=device)
    tokens = torch.randint(5, 30_000, (batch, TOKENS + 1), device=device)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        model(pixel_values=pixels, input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    on_gpu = device == "cuda"
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mib()
    kept = 3 * sum(each.nbytes for each in trained) / 2**20
    return {"seconds": statistics.median(seconds[1:]), "peak": peak, "kept": kept}


_SIDES = {"capjax": _capjax, "torch": _torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--side", nargs="+", choices=_SIDES, default=[*_SIDES])
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        found = _SIDES[given.side[0]](given.case, given.batch, given.size, given.steps)
        print(json.dumps(found))
        return
    sizes = ["--batch", str(given.batch), "--size", str(given.size), "--steps", str(given.steps)]
    print(f"{'side':8} {'case':8} {'s/step':>8} {'peak MiB':>9} {'checkpoint MiB':>15}")
    for side in given.side:
        for case in CASES:
            found = measure("lora_memory", *sizes, "--side", side, "--case", case)
            numbers = f"{found['seconds']:8.3f} {found['peak']:9.0f} {found['kept']:15.1f}"
            print(f"{side:8} {case:8} {numbers}", flush=True)


if __name__ == "__main__":
    main()
