"""Small recurrent decoders over random features, with parameters that bend every path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.bahdanau import BahdanauDecoder

B, C, T, P, F, V = 2, 3, 7, 6, 8, 19
BANNED = (0, 1, 3)


def captioner(**fields):
    sizes = {"vocab_size": V, "width": 12, "embed_dim": 10, "attention_dim": 9, "banned": BANNED}
    return Captioner(FeatureEncoder((2, 3)), BahdanauDecoder(**sizes | fields))


@functools.cache
def compiled(model):
    """`model.apply` under jit: unjitted, every call would compile its scan anew."""
    return jax.jit(model.apply, static_argnames=("train", "attention", "method"))


def data(seed=0):
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.normal(size=(B, P, F)), jnp.float32)
    # Every token comes once, so that a row of the embedding stands for a place.
    tokens = np.stack([rng.permutation(V)[:T] for _ in range(B * C)]).reshape(B, C, T)
    return features, jnp.asarray(tokens, jnp.int32)


def variables(model, seed=0, scale=0.3):
    """Drawn here, because a compiled initialisation takes as long as the test."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), (P, F)))

    def draw(path, leaf):
        middle = 1.0 if path[-1].key == "scale" else 0.0
        values = middle + np.hypot(scale, 0.25) * rng.normal(size=leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)
