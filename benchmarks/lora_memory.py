"""Training steps of BLIP, GIT and ViT-GPT2 beside torch: all parameters, or some, or adapters.

    python -m benchmarks.lora_memory [--family blip git vit_gpt2] [--rounds 2] [--steps 2] [--small]

Random float32 weights of the base sizes, images of the family's size with one caption of 20 tokens
each, AdamW, without dropout. "full" trains all parameters, "encoder" all but the ViT's, which runs
nevertheless, and "lora" adapters of rank 8 on all queries and values (in PEFT, where one layer is
queries, keys and values, also on keys). torch runs eagerly, with `fused` AdamW, its fastest.
`--small` takes two blocks, small images and one round, to try the benchmark itself.

The sides take turns in processes of their own with two threads, or one where there is one core.
Printed are medians over rounds: seconds per step, the median after a first one; the peak memory of
the process (of the GPU, if there is one), which includes the start of training; and the size of
what a checkpoint holds, the trained parameters and the two moments of AdamW. The peer needs torch,
transformers and peft: pip install -e ".[parity]".
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.sides import measure, medians, peak_memory_mib, use_two_cores
from benchmarks.torchvision_operators import declare_operators

CASES = ("full", "encoder", "lora")
TOKENS, RATE, RANK, ALPHA = 20, 1e-5, 8, 16.0


@dataclasses.dataclass(frozen=True)
class Family:
    """A captioner of base size.

    Attributes:
      decoder: its name here.
      layers: of the decoder.
      words: tokens of the vocabulary.
      side: of the images, in pixels.
      vit: fields of `ViT` that are not its defaults.
      tower: the encoder's attribute in transformers.
      projections: the modules that PEFT adapts.
    """

    decoder: str
    layers: int
    words: int
    side: int
    vit: dict[str, Any]
    tower: str
    projections: tuple[str, ...]

    def small(self) -> "Family":
        return dataclasses.replace(self, layers=2, side=64)


CLIP = {"pre_norm": True, "patch_bias": False, "activation": "quick_gelu"}
FAMILIES = {
    "blip": Family("blip", 12, 30524, 384, {}, "vision_model", ("query", "value", "qkv")),
    "git": Family(
        *("git", 6, 30522, 224, CLIP, "git.image_encoder"), ("query", "value", "q_proj", "v_proj")
    ),
    "vit_gpt2": Family(
        *("gpt2", 12, 50257, 224, {}, "encoder"), ("q_proj", "v_proj", "c_attn", "q_attn")
    ),
}


def capjax(family: Family, depth: int, case: str, batch: int) -> tuple[Callable[[], object], int]:
    """Returns a training step, and the bytes of a checkpoint."""
    import jax
    import optax

    from capjax.models.captioner import Captioner, split_frozen
    from capjax.models.encoders.vit import ViT
    from capjax.models.lora_fields import Lora
    from capjax.parallel import devices
    from capjax.parts import DECODERS
    from capjax.train.objectives.cross_entropy import CrossEntropy
    from capjax.train.state import init_state, stack_blocks
    from capjax.train.step import make_train_step

    side = family.side
    dropout = {"dropout": 0.0, "attention_dropout": 0.0}
    decoder = DECODERS.get(family.decoder)(family.words, num_layers=family.layers, **dropout)
    encoder = ViT(16, 768, depth, 12, 3072, (side // 16,) * 2, **family.vit)
    lora = Lora(RANK, ALPHA, 0.0, ("query", "value")) if case == "lora" else None
    model = Captioner(encoder, decoder, lora=lora)
    like = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (side, side, 3)))
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        drawn = rng.random(leaf.shape, np.float32)
        drawn -= 0.5
        drawn *= 0.1
        return drawn

    frozen = {"full": (), "encoder": ("encoder",), "lora": ("encoder", "decoder")}[case]
    params, kept = split_frozen(jax.tree.map(draw, like), frozen)
    optimizer = optax.adamw(RATE)
    state = init_state(params, optimizer, ema=False, frozen=kept)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    state = stack_blocks(model, state)
    held = [devices.replicate(state, donate=True)]
    del state, params, kept
    images = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
    tokens = rng.integers(5, 30_000, (batch, 1, TOKENS + 1), np.int32)
    lengths = np.full((batch, 1), TOKENS, np.int32)
    rows = devices.shard({"image": images, "tokens": tokens, "lengths": lengths})
    step = make_train_step(model, optimizer, seed=0, objective=CrossEntropy())
    step = devices.map_step(step)

    def call() -> None:
        held[0], _ = step(held[0], rows)
        jax.block_until_ready(held[0])

    return call, size


def torch_model(family: Family, depth: int):
    """Returns the same captioner of transformers."""
    import transformers

    vision = {"image_size": family.side, "patch_size": 16, "num_hidden_layers": depth}
    layers = family.layers
    if family.decoder == "blip":
        # As published; transformers' own default is 8 heads.
        text = {"num_attention_heads": 12, "num_hidden_layers": layers}
        config = transformers.BlipConfig(vision_config=vision, text_config=text)
        return transformers.BlipForConditionalGeneration(config)
    if family.decoder == "git":
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = transformers.GitConfig(vision_config=vision, num_hidden_layers=layers, **rates)
        return transformers.GitForCausalLM(config)
    rates = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    config = transformers.GPT2Config(add_cross_attention=True, n_layer=layers, **rates)
    vit = transformers.ViTModel(transformers.ViTConfig(**vision), add_pooling_layer=False)
    model = transformers.VisionEncoderDecoderModel(
        encoder=vit, decoder=transformers.GPT2LMHeadModel(config)
    )
    model.config.update({"decoder_start_token_id": 0, "pad_token_id": 0})
    return model


def peer(family: Family, depth: int, case: str, batch: int) -> tuple[Callable[[], object], int]:
    """See `capjax`."""
    import torch

    torch.set_num_threads(use_two_cores())
    declare_operators()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch_model(family, depth).to(device).train()
    if case == "encoder":
        model.get_submodule(family.tower).requires_grad_(requires_grad=False)
    if case == "lora":
        import peft

        given = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=[*family.projections])
        model = peft.get_peft_model(model, given)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    images = {"pixel_values": torch.randn(batch, 3, family.side, family.side, device=device)}
    tokens = torch.randint(5, 30_000, (batch, TOKENS + 1), device=device)
    # An encoder-decoder puts the start before the labels by itself.
    own = family.decoder == "gpt2"
    texts = {"labels": tokens[:, 1:]} if own else {"labels": tokens, "input_ids": tokens}

    def call() -> None:
        optimizer.zero_grad()
        model(**images, **texts).loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return call, 3 * sum(each.nbytes for each in trained)


SIDES = {"peer": peer, "capjax": capjax}


def peak(side: str) -> float:
    """The peak memory of the GPU, if there is one; else of this process; in MiB."""
    if side == "peer":
        import torch

        on_gpu = torch.cuda.is_available()
        return torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_memory_mib()
    import jax

    found = jax.local_devices()[0].memory_stats()
    return found["peak_bytes_in_use"] / 2**20 if found else peak_memory_mib()


def run_side(side: str, family: str, case: str, batch: int, steps: int, small: bool) -> dict:
    use_two_cores()  # Before JAX counts them.
    kind, depth = FAMILIES[family], 12
    if small:
        kind, depth = kind.small(), 2
    call, size = SIDES[side](kind, depth, case, batch)
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {
        "first": seconds[0],
        "seconds": statistics.median(seconds[1:]),
        "peak": peak(side),
        "size": size / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=[*FAMILIES])
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--batch", type=int, default=2, help="images of a step")
    parser.add_argument("--rounds", type=int, default=2, help="number of runs of each side")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a run")
    parser.add_argument("--small", action="store_true", help="small models, once")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process")
    given = parser.parse_args()
    if given.side:
        sizes = given.batch, given.steps, given.small
        print(json.dumps(run_side(given.side, given.family[0], given.case[0], *sizes)))
        return
    options = ["--batch", str(given.batch), "--steps", str(given.steps)]
    options += ["--small"] if given.small else []
    print(
        "| model | trained | torch s | capjax s | ratio | first step s | torch MiB | capjax MiB "
        "| checkpoint MiB, torch | capjax |"
    )
    print("|---" * 10 + "|", flush=True)
    for family in given.family:
        for case in given.case:
            one = ["--family", family, "--case", case, *options]
            rounds = [
                [measure("lora_memory", *one, "--side", side) for side in SIDES]
                for _ in range(1 if given.small else given.rounds)
            ]
            peer, ours = (medians([pair[side] for pair in rounds]) for side in (0, 1))
            ratio = statistics.median(pair[0]["seconds"] / pair[1]["seconds"] for pair in rounds)
            print(
                f"| {family} | {case} | {peer['seconds']:.2f} | {ours['seconds']:.2f} "
                f"| {ratio:.2f} | {ours['first']:.1f} | {peer['peak']:.0f} | {ours['peak']:.0f} "
                f"| {peer['size']:.1f} | {ours['size']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
