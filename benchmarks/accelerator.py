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
import json
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.matmul_count import matmul_flops

ROUNDS = 5
TOKENS, BEAMS, VOCABULARY = 16, 4, 50257
END = VOCABULARY - 1
BATCHES = {"training": (128, 256, 32), "captions": (8, 64), "encoders": (256,), "cached": (512, 64)}
ENCODERS = ("vit_b16", "resnet101", "mobilenet_v2")
# A part that takes longer has failed.
MOST_SECONDS = 240


def seconds_of(call: Callable[[], Any], wait: Callable[[Any], None], window: float = 1.0) -> float:
    """Median seconds of a call, over windows of about `window` seconds with one wait each."""
    for _ in range(2):
        wait(call())
    start = time.perf_counter()
    wait(call())
    count = max(1, round(window / (time.perf_counter() - start)))
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(count):
            result = call()
        wait(result)
        found.append((time.perf_counter() - start) / count)
    return statistics.median(found)


def draw(batch: int, captions: int = 1, vocabulary: int = END) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, 224, 224, 3] and captions int32 [B, C, 1 + T]."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 224, 224, 3), np.uint8)
    return images, rng.integers(4, vocabulary, (batch, captions, TOKENS + 1), np.int32)


def limits() -> dict[str, Any]:
    """The device, TFLOP/s of a large matrix product, and TB/s of a copy, read and written."""
    import jax
    import jax.numpy as jnp

    size = 8192 if jax.default_backend() != "cpu" else 1024
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    taken = seconds_of(lambda: product(a), jax.block_until_ready)
    x = jnp.zeros(2**29 if size == 8192 else 2**22, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copied = seconds_of(lambda: copy(x), jax.block_until_ready)
    device = f"{jax.local_devices()[0].device_kind}, JAX {jax.__version__}"
    rates = {"TFLOP/s": 2 * size**3 / taken / 1e12, "TB/s": 2 * x.nbytes / copied / 1e12}
    return {"device": device, **rates}


def vit_gpt2(dtype: Any) -> Any:
    """The captioner, with the attention of `config.fused_attention`."""
    from capjax.models.captioner import Captioner
    from capjax.models.decoders.gpt2 import GPT2Decoder
    from capjax.parallel import devices

    return Captioner(
        vit_b16(dtype), GPT2Decoder(banned=(END,), dtype=dtype), fused=devices.has_cudnn()
    )


def vit_b16(dtype: Any) -> Any:
    from capjax.models.encoders.vit import ViT

    return ViT(16, 768, 12, 12, 3072, (14, 14), dtype=dtype)


def random_variables(model: Any, shape: tuple[int, ...]) -> Any:
    """Small random variables, made by NumPy, since the initialisation takes long to compile."""
    import jax

    shapes = jax.eval_shape(lambda key: model.init_variables(key, shape), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw_leaf(leaf: Any) -> np.ndarray:
        if len(leaf.shape) < 2:  # Scales, biases and statistics.
            return np.ones(leaf.shape, np.float32)
        return 0.02 * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(draw_leaf, shapes)


def train_step(model: Any, variables: Any, batch: dict[str, np.ndarray]) -> Callable[[], Any]:
    """A call that makes one update, as `capjax train` does."""
    import optax

    from capjax.parallel import devices
    from capjax.train.objectives.cross_entropy import CrossEntropy
    from capjax.train.optimizer import adamw, clipped
    from capjax.train.state import init_state
    from capjax.train.step import make_train_step

    schedule = optax.constant_schedule(1e-5)
    rule = adamw(schedule, b1=0.9, b2=0.999, weight_decay=0.01)
    optimizer = clipped(rule, clip_norm=1.0)
    state = devices.replicate(init_state(variables["params"], optimizer, ema=False))
    update = make_train_step(model, optimizer, seed=0, objective=CrossEntropy())
    update = devices.map_devices(update, donate=(0,))
    batch = devices.shard(batch)

    def step() -> Any:
        nonlocal state
        state, metrics = update(state, batch)
        return metrics["loss"]

    return step


def batch_of(images: np.ndarray, tokens: np.ndarray, name: str = "image") -> dict[str, np.ndarray]:
    lengths = np.full(tokens.shape[:2], TOKENS, np.int32)
    return {name: images, "tokens": tokens, "lengths": lengths}


def forward_flops(model: Any, variables: Any, images: Any, tokens: Any) -> float:
    def forward(variables, images, tokens):
        return model.apply(variables, images, tokens[..., :-1], train=False).logits

    return matmul_flops(forward, variables, images, tokens)


def training_capjax(batch: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    model = vit_gpt2(jnp.bfloat16)
    images, tokens = draw(batch)
    variables = random_variables(model, images.shape[1:])
    work = 3 * forward_flops(model.clone(fused=False), variables, images, tokens)
    step = train_step(model, variables, batch_of(images, tokens))
    start = time.perf_counter()
    jax.block_until_ready(step())
    first = time.perf_counter() - start
    return {
        "seconds": seconds_of(step, jax.block_until_ready),
        "flops": work,
        "first call s": first,
        "memory GB": peak_jax(),
    }


def peak_jax() -> float:
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0) / 1e9


def peak_torch() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def torch_pair(dtype: Any) -> Any:
    """The peer's ViT-B/16 with GPT-2 small on the GPU."""
    import torch
    import transformers

    ids = {"bos_token_id": END, "eos_token_id": END}
    drops = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    torch.manual_seed(0)
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False),
        decoder=transformers.GPT2LMHeadModel(
            transformers.GPT2Config(add_cross_attention=True, **drops, **ids)
        ),
    )
    model.config.update({"decoder_start_token_id": END, "pad_token_id": END})
    return model.to("cuda", dtype)


def torch_inputs(images: np.ndarray, dtype: Any) -> Any:
    import torch

    pixels = torch.from_numpy(images).cuda().permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.to(dtype)


def torch_wait(_: Any) -> None:
    import torch

    torch.cuda.synchronize()


def torch_step(model: Any, loss_of: Callable[[Any], Any]) -> Callable[[], Any]:
    """A call that makes one update of a compiled model in bfloat16."""
    import torch

    torch.set_float32_matmul_precision("high")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    compiled = torch.compile(model)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(compiled)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        return loss

    return step


def training_peer(batch: int) -> dict[str, float]:
    import torch

    images, tokens = draw(batch)
    model = torch_pair(torch.float32).train()
    pixels = torch_inputs(images, torch.float32)
    labels = torch.from_numpy(tokens[:, 0, 1:]).long().cuda()
    step = torch_step(model, lambda model: model(pixel_values=pixels, labels=labels).loss)
    start = time.perf_counter()
    torch_wait(step())
    first = time.perf_counter() - start
    seconds = seconds_of(step, torch_wait)
    return {"seconds": seconds, "first call s": first, "memory GB": peak_torch()}


WORDS = 3000
CAPTIONS = 5


def cached_capjax(batch: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from capjax.models.adapter import Adapter
    from capjax.models.captioner import Captioner, FeatureEncoder
    from capjax.models.decoders.transformer import TransformerDecoder
    from capjax.parallel import devices

    kind = jnp.bfloat16
    fields = {"dropout": 0.1, "tie_embeddings": True, "banned": (0, 1, 3), "dtype": kind}
    decoder = TransformerDecoder(WORDS, TOKENS, 256, 2, 4, **fields)
    adapter = Adapter(256, norms=True, dropout=0.1, dtype=kind)
    model = Captioner(FeatureEncoder((7, 7)), decoder, adapter, fused=devices.has_cudnn())
    _, tokens = draw(batch, CAPTIONS, WORDS)
    features = np.random.default_rng(1).normal(size=(batch, 49, 1280)).astype(np.float16)
    variables = random_variables(model, features.shape[1:])
    work = 3 * forward_flops(model.clone(fused=False), variables, features, tokens)
    step = train_step(model, variables, batch_of(features, tokens, "features"))
    return {"seconds": seconds_of(step, jax.block_until_ready), "flops": work}


def cached_peer(batch: int) -> dict[str, float]:
    """A pre-norm transformer decoder of torch, equally wide, with features repeated by caption."""
    import torch
    from torch import nn

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Sequential(nn.LayerNorm(1280), nn.Linear(1280, 256), nn.Dropout(0.1))
            self.tokens, self.positions = nn.Embedding(WORDS, 256), nn.Embedding(TOKENS, 256)
            options = {"batch_first": True, "norm_first": True, "activation": "gelu"}
            layer = nn.TransformerDecoderLayer(256, 4, 1024, 0.1, **options)
            self.decoder = nn.TransformerDecoder(layer, 2, nn.LayerNorm(256))

        def forward(self, features: Any, tokens: Any) -> Any:
            memory = self.project(features).repeat_interleave(CAPTIONS, 0)
            x = self.tokens(tokens[:, :-1])
            x = x + self.positions.weight
            mask = nn.Transformer.generate_square_subsequent_mask(TOKENS, device=x.device)
            x = self.decoder(x, memory, tgt_mask=mask, tgt_is_causal=True)
            logits = x @ self.tokens.weight.T
            return nn.functional.cross_entropy(
                logits.float().flatten(0, 1), tokens[:, 1:].flatten()
            )

    _, tokens = draw(batch, CAPTIONS, WORDS)
    tokens = torch.from_numpy(tokens).flatten(0, 1).long().cuda()
    features = torch.randn(batch, 49, 1280, device="cuda")
    step = torch_step(Peer().cuda().train(), lambda model: model(features, tokens))
    return {"seconds": seconds_of(step, torch_wait)}


def encoders_capjax(batch: int, name: str) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from capjax.models.captioner import Captioner
    from capjax.models.decoders.transformer import TransformerDecoder
    from capjax.models.encoders.mobilenet_v2 import MobileNetV2
    from capjax.models.encoders.resnet import ResNet
    from capjax.parallel import devices

    made = {
        "vit_b16": vit_b16,
        "resnet101": lambda dtype: ResNet(101, dtype=dtype),
        "mobilenet_v2": lambda dtype: MobileNetV2(1.0, dtype=dtype),
    }[name](jnp.bfloat16)
    model = Captioner(made, TransformerDecoder(9, 5, 8, 1, 2), fused=devices.has_cudnn())
    images, _ = draw(batch)
    variables = random_variables(model, images.shape[1:])
    images = jax.device_put(images)

    def encode(variables: Any, images: Any) -> Any:
        return model.apply(variables, images, method="encode").values

    flops = matmul_flops(
        lambda v, x: model.clone(fused=False).apply(v, x, method="encode").values, variables, images
    )
    call = jax.jit(encode)
    return {
        "seconds": seconds_of(lambda: call(variables, images), jax.block_until_ready),
        "flops": flops,
    }


def encoders_peer(batch: int, name: str) -> dict[str, float]:
    import torch

    if name == "vit_b16":
        import transformers

        model = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
        features = lambda model, x: model(pixel_values=x).last_hidden_state  # noqa: E731
    else:
        import torchvision

        whole = getattr(torchvision.models, name)(weights=None)
        # Without pooling and classifier.
        model = (
            whole.features
            if name == "mobilenet_v2"
            else torch.nn.Sequential(*list(whole.children())[:-2])
        )
        features = lambda model, x: model(x)  # noqa: E731
    model = model.eval().to("cuda", torch.bfloat16).to(memory_format=torch.channels_last)
    images = torch.from_numpy(draw(batch)[0]).cuda()
    compiled = torch.compile(model)

    @torch.inference_mode()
    def encode() -> Any:
        pixels = images.permute(0, 3, 1, 2).to(torch.bfloat16) / 127.5 - 1
        return features(compiled, pixels)

    return {"seconds": seconds_of(encode, torch_wait)}


def captions_capjax(batch: int) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from capjax.evaluate.captioning import BeamSearch, make_decode

    model = vit_gpt2(jnp.bfloat16)
    images, _ = draw(batch)
    variables = random_variables(model, images.shape[1:])
    ids = types.SimpleNamespace(bos_id=END, eos_id=END, pad_id=END)
    method = BeamSearch(BEAMS, length_penalty=1.0, early_stopping=False, max_length=TOKENS + 1)
    decode = make_decode(model, ids, method, attention=False)

    @jax.jit
    def caption(variables: Any, images: Any) -> Any:
        memory = model.apply(variables, images, method="encode")
        return decode(variables, memory, jnp.arange(batch))["tokens"]

    images = jax.device_put(images)
    variables = jax.device_put(variables)
    return {"seconds": seconds_of(lambda: caption(variables, images), jax.block_until_ready)}


def captions_peer(batch: int) -> dict[str, float]:
    import torch

    model = torch_pair(torch.bfloat16).eval()
    pixels = torch_inputs(draw(batch)[0], torch.bfloat16)
    options = {"num_beams": BEAMS, "do_sample": False, "suppress_tokens": [END]}
    ids = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "decoder_start_token_id": END}

    @torch.inference_mode()
    def generate() -> Any:
        return model.generate(pixel_values=pixels, **options, **ids, **lengths)

    return {"seconds": seconds_of(generate, torch_wait)}


def run_part(part: str, side: str, batch: int, name: str) -> dict[str, Any]:
    """One figure of one side, in this process."""
    if part == "limits":
        return limits()
    function = globals()[f"{part}_{side}"]
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
