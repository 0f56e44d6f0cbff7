"""An encoder and a decoder as one model, with the decoder's contract on top."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from capjax.models.contract import Carry, DecoderOutput, Memory


class FeatureEncoder(nn.Module):
    """Takes features that a frozen network made before: [B, P, F] over a known grid.

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
            raise ValueError(f"features of {features.shape[1]} positions for {positions}")
        return Memory(features, self.grid, self.prefix)


class Captioner(nn.Module):
    """Images in, caption logits out.

    Attributes:
      encoder: images -> Memory, such as `PatchEncoder`.
      decoder: keeps the contract of `capjax.models.contract`.
      adapter: Memory -> Memory between the two, such as `Adapter`; or None.
    """

    encoder: nn.Module
    decoder: nn.Module
    adapter: nn.Module | None = None

    def __call__(
        self,
        images: jax.Array,
        tokens: jax.Array,
        *,
        train: bool,
        packing: jax.Array | None = None,
    ) -> DecoderOutput:
        """Teacher forcing: images [B, ...], tokens [B, C, T] -> logits [B, C, T, V]."""
        memory = self.encode(images, train=train)
        return self.decoder(memory, tokens, train=train, packing=packing)

    def encode(self, images: jax.Array, *, train: bool = False) -> Memory:
        """Encodes images, once for all their captions."""
        memory = self.encoder(images, train=train)
        return memory if self.adapter is None else self.adapter(memory, train=train)

    def decode(
        self, memory: Memory, tokens: jax.Array, *, train: bool = False, attention: bool = False
    ) -> DecoderOutput:
        """See the decoder's `__call__`."""
        return self.decoder(memory, tokens, train=train, attention=attention)

    def init_carry(self, memory: Memory, width: int, max_length: int) -> Carry:
        """See the decoder's `init_carry`."""
        return self.decoder.init_carry(memory, width, max_length)

    def step(
        self, carry: Carry, token: jax.Array, *, attention: bool = False
    ) -> tuple[Carry, jax.Array, jax.Array | None]:
        """See the decoder's `step`."""
        return self.decoder.step(carry, token, attention=attention)

    def init_params(self, key: jax.Array, image_shape: tuple[int, ...]) -> dict:
        """Fresh parameters for images of `image_shape` (H, W, 3) or features (P, F)."""
        dtype = jnp.uint8 if len(image_shape) == 3 else jnp.float32
        images = jnp.zeros((1, *image_shape), dtype)
        tokens = jnp.zeros((1, 1, 2), jnp.int32)
        init = jax.jit(functools.partial(self.init, train=False))
        return init(key, images, tokens)["params"]
