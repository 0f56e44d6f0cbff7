"""capjax's side of `benchmarks.accelerator`: a function for each part."""

import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.accelerator_common import BEAMS, CAPTIONS, END, TOKENS, WORDS, draw, seconds_of
from benchmarks.matmul_count import matmul_flops


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
    update = devices.map_step(update)
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
    variables = jax.device_put(variables)
    return {
        "seconds": seconds_of(lambda: call(variables, images), jax.block_until_ready),
        "flops": flops,
    }


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
        return decode(variables, memory, jnp.arange(batch)).tokens[:, 0]

    images = jax.device_put(images)
    variables = jax.device_put(variables)
    return {"seconds": seconds_of(lambda: caption(variables, images), jax.block_until_ready)}
