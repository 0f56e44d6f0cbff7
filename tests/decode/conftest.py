"""A toy decoder whose every logit can be said in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from capjax.models.contract import Carry


class ToyDecoder:
    """Logits and attention looked up by a hash of the image and the whole prefix.

    The look-up is exact on both sides, so NumPy, JAX and torch see the same float32 logits.
    """

    rows = 1009

    def __init__(self, vocabulary, *, seed=0, scale=2.0, boost=(), banned=()):
        rng = np.random.default_rng(seed)
        self.logits = (scale * rng.normal(size=(self.rows, vocabulary))).astype(np.float32)
        for token, bonus in boost:
            self.logits[:, token] += bonus
        self.logits[:, list(banned)] = -1e9
        logits = self.logits.astype(np.float64)
        self.table = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        self.maps = (rng.integers(1, 1024, size=(self.rows, 2, 3)) / 1024).astype(np.float32)

    @staticmethod
    def advance(state, token):
        return (state * 31 + token + 1) % 65521

    def carry(self, images, width):
        images = jnp.asarray(images, jnp.int32)
        state = jnp.broadcast_to(images[:, None], (len(images), width))
        return Carry(per_image=images, per_beam={"state": state}, position=jnp.int32(0))

    def step(self, carry, token, *, attention=False):
        state = self.advance(carry.per_beam["state"], token)
        carry = carry.replace(per_beam={"state": state}, position=carry.position + 1)
        row = state % self.rows
        maps = jnp.asarray(self.maps)[row] if attention else None
        return carry, jnp.asarray(self.logits)[row], maps

    def row(self, image, fed):
        """The table's row after feeding `fed` (bos first) for an image."""
        state = int(image)
        for token in fed:
            state = self.advance(state, int(token))
        return state % self.rows

    def log_probs(self, image, fed):
        """float64 [V], what may follow `fed`."""
        return self.table[self.row(image, fed)]


@pytest.fixture(scope="session")
def toy():
    return ToyDecoder
