"""A captioner: encoder, adapter and decoder as one model that keeps the decoder contract.

Shapes: see docs/architecture.md.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from capjax.models.contract import Carry, Decoder, DecoderOutput, Memory
from capjax.models.few_rows import few_rows
from capjax.models.layers import fused_attention
from capjax.models.lora import adapting, is_adapter
from capjax.models.lora_fields import Lora

Variables = dict[str, Any]


def split_frozen(
    variables: Variables, freeze: Sequence[str] = (), thaw: Sequence[str] = ()
) -> tuple[Any, Variables]:
    """Splits variables into (parameters to train, frozen variables).

    Frozen are the statistics of batch norms (see `encoders.mobilenet_v2`) and the parts named by
    `freeze`, such as "encoder" or "decoder/tokens", except for those named by `thaw`, matched by
    `is_part`: "encoder/layer4" thaws `layer4` and `layer4_0_conv1`. Batch norms inside thawed parts
    stay frozen, because their scales belong to fixed statistics. Adapters (`models.lora`) always
    train.
    """
    frozen = {name: value for name, value in variables.items() if name != "params"}
    flat = traverse_util.flatten_dict(dict(variables["params"]), sep="/")
    fixed = traverse_util.flatten_dict(dict(variables.get("batch_stats", {})), sep="/")
    norms = {name.rpartition("/")[0] for name in fixed}
    prefixes = tuple(f"{part}/" for part in freeze)

    def stays(name: str) -> bool:
        thawed = any(is_part(name, part) for part in thaw) and name.rpartition("/")[0] not in norms
        return name.startswith(prefixes) and not thawed and not is_adapter(name)

    stay = {name: leaf for name, leaf in flat.items() if stays(name)}
    if stay:
        frozen["params"] = traverse_util.unflatten_dict(stay, sep="/")
    params = {name: leaf for name, leaf in flat.items() if name not in stay}
    return traverse_util.unflatten_dict(params, sep="/"), frozen


def is_part(name: str, part: str) -> bool:
    """True if `name`, "encoder/layer4_0_conv1/kernel", begins with `part`, "encoder/layer4".

    A digit must not follow: "block1" does not match "block10".
    """
    return re.match(rf"{re.escape(part)}(?![0-9])", name) is not None


def join_frozen(params: Any, frozen: Variables) -> Variables:
    """Inverse of `split_frozen`."""
    flat = traverse_util.flatten_dict(dict(frozen.get("params", {})), sep="/")
    flat |= traverse_util.flatten_dict(dict(params), sep="/")
    return {**frozen, "params": traverse_util.unflatten_dict(flat, sep="/")}


def without_encoder(variables: Variables) -> Variables:
    """The variables of all other parts; drops collections that only the encoder has."""
    rest = {
        name: {part: leaves for part, leaves in value.items() if part != "encoder"}
        for name, value in variables.items()
    }
    return {name: value for name, value in rest.items() if value}


def encoder_variables(variables: Variables) -> Variables:
    """The encoder's variables, in the form that its `apply` takes."""
    return {name: value["encoder"] for name, value in variables.items() if "encoder" in value}


class FeatureEncoder(nn.Module):
    """Wraps precomputed features [B, P, F] of a frozen encoder as a memory.

    Attributes:
      grid: (h, w) of the spatial positions.
      prefix: positions before the grid, such as a class token.
    """

    grid: tuple[int, int]
    prefix: int = 0

    def __call__(self, features: jax.Array, *, train: bool) -> Memory:
        """Wraps features [B, prefix + h * w, F]."""
        del train
        positions = self.prefix + self.grid[0] * self.grid[1]
        if features.shape[1] != positions:
            raise ValueError(f"features have {features.shape[1]} positions, not {positions}")
        return Memory(features, self.grid, self.prefix)


class Captioner(nn.Module):
    """Maps images and caption tokens to logits.

    Attributes:
      encoder: images -> Memory, such as `PatchEncoder`.
      decoder: a `Decoder`; see `capjax.models.contract`.
      adapter: Memory -> Memory between encoder and decoder, such as `Adapter`; or None.
      fused: whether attention uses a fused kernel, which only an NVIDIA GPU has; see
        `layers.Attention`.
      lora: low-rank adapters of its dense layers, with which it computes; or None.
    """

    encoder: nn.Module
    decoder: Decoder
    adapter: nn.Module | None = None
    fused: bool = False
    lora: Lora | None = None

    def __call__(
        self,
        images: jax.Array,
        tokens: jax.Array,
        *,
        train: bool,
        attention: bool = False,
        packing: jax.Array | None = None,
        own_words: jax.Array | None = None,
    ) -> DecoderOutput:
        """Teacher forcing: images [B, ...], tokens [B, C, T] -> logits [B, C, T, V].

        `packing` and `own_words` go to the decoder; see `capjax.models.contract`.
        """
        memory = self.encode(images, train=train)
        sampling = {} if own_words is None else {"own_words": own_words}
        with fused_attention(self.fused), adapting(self.lora, train=train):
            return self.decoder(
                memory, tokens, train=train, attention=attention, packing=packing, **sampling
            )

    def encode(self, images: jax.Array, *, train: bool = False) -> Memory:
        """Encodes images [B, ...], once for all captions of each."""
        with fused_attention(self.fused), adapting(self.lora, train=train):
            memory = self.encoder(images, train=train)
            return memory if self.adapter is None else self.adapter(memory, train=train)

    def decode(
        self, memory: Memory, tokens: jax.Array, *, train: bool = False, attention: bool = False
    ) -> DecoderOutput:
        """See the decoder's `__call__`."""
        with fused_attention(self.fused), adapting(self.lora, train=train):
            return self.decoder(memory, tokens, train=train, attention=attention)

    def logits_of(self, states: jax.Array, *, train: bool) -> jax.Array:
        """Logits [..., V] of a decoder's states [..., D]."""
        with adapting(self.lora, train=train):
            return self.decoder.logits_of(states)

    def init_carry(self, memory: Memory, width: int, max_length: int) -> Carry:
        """See the decoder's `init_carry`."""
        with adapting(self.lora, train=False):
            return self.decoder.init_carry(memory, width, max_length)

    def step(
        self, carry: Carry, token: jax.Array, *, attention: bool = False
    ) -> tuple[Carry, jax.Array, jax.Array | None]:
        """See the decoder's `step`."""
        # Adapters first, which add to what a layer gives.
        with adapting(self.lora, train=False), few_rows():
            return self.decoder.step(carry, token, attention=attention)

    def init_variables(self, key: jax.Array, image_shape: tuple[int, ...]) -> Variables:
        """Random variables for images of `image_shape` (H, W, 3) or features (P, F)."""
        dtype = jnp.uint8 if len(image_shape) == 3 else jnp.float32
        images = jnp.zeros((1, *image_shape), dtype)
        tokens = jnp.zeros((1, 1, 2), jnp.int32)
        init = jax.jit(functools.partial(self.init, train=False))
        return dict(init(key, images, tokens))


def init_around(
    model: Captioner,
    key: jax.Array,
    image_shape: tuple[int, ...],
    encoder: Variables | None,
    draw: Callable[..., Variables] = Captioner.init_variables,
) -> Variables:
    """The encoder's variables as given, all others random by `draw`.

    With `encoder` None its variables are zeros, to be overwritten. The encoder is not run, which
    saves its compilation.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    init = functools.partial(model.encoder.init, train=False)
    if encoder is None:
        shapes = jax.eval_shape(init, key, images)
        encoder = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), dict(shapes))
    memory = jax.eval_shape(functools.partial(model.encoder.apply, train=False), encoder, images)
    rest = model.clone(encoder=FeatureEncoder(memory.grid, memory.prefix))
    variables = draw(rest, key, memory.values.shape[1:])
    return {
        name: {**variables.get(name, {}), "encoder": encoder[name]}
        for name in variables.keys() | encoder.keys()
    }
