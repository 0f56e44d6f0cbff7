"""The gradient of a reward is the one that all captions together have."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.parts import REWARDS
from capjax.train.objectives.self_critical import SelfCritical, distinct, token_divergence

# pad, bos, eos, unk and two words; captions of at most two tokens.
V, T, K = 6, 2, 3
EOS, WORDS = 2, (2, 4, 5)
IDS = {"bos_id": 1, "eos_id": EOS, "pad_id": 0}
# All captions of at most two tokens, and their lengths.
CAPTIONS = np.array([[EOS, 0], *itertools.product(WORDS[1:], WORDS)], np.int32)
LENGTHS = np.array([1, *[2] * 6], np.int32)
PAYS = {caption: pay for caption, pay in zip(map(tuple, CAPTIONS), (1, 0, 3, 2, 5, -1, 2), strict=True)}


@dataclasses.dataclass(frozen=True)
class Pays:
    """A number for each caption, and more if the references begin with its first word."""

    scale: float = 1.0

    def prepare(self, references, *, eos_id, vocab_size):
        del references, vocab_size
        return {"eos_id": np.int32(eos_id)}

    def __call__(self, table, hypotheses, hypothesis_lengths, references, reference_lengths):
        del table, hypothesis_lengths, reference_lengths
        found = sum(
            pay * (hypotheses == np.array(caption)).all(-1) for caption, pay in PAYS.items()
        )
        return self.scale * (found + (hypotheses[..., 0] == references[:, :1, 0])).astype(jnp.float32)


@pytest.fixture(autouse=True)
def rewards():
    REWARDS.register("pays", Pays)
    REWARDS.register("pays_nothing", lambda: Pays(0.0))
    yield
    del REWARDS._registered["pays"], REWARDS._registered["pays_nothing"]


def model_and_variables(seed=0, **fields):
    decoder = TransformerDecoder(V, 4, 8, 1, 2, banned=(0, 1, 3), **fields)
    model = Captioner(FeatureEncoder((1, 2)), decoder)
    variables = model.init_variables(jax.random.key(seed), (2, 8))
    rng = np.random.default_rng(seed)
    loud = lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)
    return model, jax.tree.map(loud, variables)


def batch_of(images):
    rng = np.random.default_rng(1)
    return {
        "features": jnp.asarray(rng.normal(size=(images, 2, 8)), jnp.float32),
        "tokens": jnp.asarray(np.tile([1, 4, 2], (images, 1, 1)), jnp.int32),
        "lengths": jnp.full((images, 1), 2, jnp.int32),
        "references": jnp.asarray(rng.choice(WORDS[1:], (images, 1, 1)), jnp.int32),
        "reference_lengths": jnp.ones((images, 1), jnp.int32),
        "keys": jnp.asarray(rng.integers(2**32, size=(images, 2), dtype=np.uint32)),
    }


def make(**fields):
    return SelfCritical(**{"rewards": ("pays",), "samples": K, "max_length": T, **IDS, **fields})


def share(objective, model, variables, batch, began, step=0):
    images = float(len(batch["lengths"]))
    return objective.share(
        model,
        variables,
        batch,
        counts={"tokens": 2 * images, "captions": images, "images": images},
        step=jnp.int32(step),
        key=jax.random.key(0),
        baseline=None,
        constants=objective.prepare((), began["params"], eos_id=EOS, vocab_size=V),
    )


def caption_log_probs(objective, model, variables, batch):
    """Log-probabilities [B, 7] of all captions as they are drawn."""
    captions = jnp.tile(CAPTIONS, (len(batch["lengths"]), 1, 1))
    fed = jnp.pad(captions[..., :-1], ((0, 0), (0, 0), (1, 0)), constant_values=IDS["bos_id"])
    logits = model.apply(variables, batch["features"], fed, train=False).logits
    probs = jax.nn.softmax(logits / objective.temperature)
    if objective.top_p < 1:
        order = jnp.flip(jnp.argsort(jax.lax.stop_gradient(probs), axis=-1), axis=-1)
        ranked = jnp.take_along_axis(probs, order, axis=-1)
        before = jnp.cumsum(ranked, axis=-1) - ranked
        ranked = jnp.where(before < objective.top_p, ranked, 0.0)
        back = jnp.argsort(order, axis=-1)
        probs = jnp.take_along_axis(ranked, back, axis=-1)
        probs /= probs.sum(-1, keepdims=True)
    said = jnp.take_along_axis(probs, captions[..., None], axis=-1)[..., 0]
    inside = jnp.arange(T) < LENGTHS[:, None]
    return jnp.where(inside, said, 1.0).prod(-1)


def exact_objective(objective, model, variables, batch, began):
    """Minus the expected reward of all captions, with the divergence from `began`."""
    probs = caption_log_probs(objective, model, variables, batch)
    captions = jnp.tile(CAPTIONS, (len(probs), 1, 1))
    reward = REWARDS.get(objective.rewards[0])()(None, captions, None, batch["references"], None)
    plain = dataclasses.replace(objective, top_p=1.0)
    others = caption_log_probs(plain, model, began, batch)
    kl = jnp.where(probs > 0, probs * (jnp.log(jnp.maximum(probs, 1e-30)) - jnp.log(others)), 0.0)
    return (-(probs * reward).sum(-1) + objective.kl_weight * kl.sum(-1)).mean()


CASES = {
    "mean": {},
    "greedy": {"baseline": "greedy", "samples": 1},
    "sharp": {"temperature": 0.6, "kl_weight": 0.7},
    "nucleus": {"top_p": 0.7, "kl_weight": 0.4},
}


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_estimates_the_exact_policy_gradient(fields):
    objective = make(**fields)
    (model, variables), (_, began) = model_and_variables(), model_and_variables(seed=1)
    batch = batch_of(1)
    exact = jax.jit(
        jax.grad(lambda p: exact_objective(objective, model, p, batch, began))
    )(variables)

    @jax.jit
    @jax.vmap
    def estimate(keys):
        drawn = {**batch, "keys": keys}
        return jax.grad(lambda p: share(objective, model, p, drawn, began)[0])(variables)

    count = 4000
    keys = np.random.default_rng(0).integers(2**32, size=(count, 1, 2), dtype=np.uint32)
    drawn = estimate(jnp.asarray(keys))
    moved = 0.0
    for found, wanted in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
        found = np.asarray(found, np.float64)
        error = found.std(0) / np.sqrt(count)
        assert np.all(np.abs(found.mean(0) - wanted) < 5 * error + 1e-5)
        moved = max(moved, float(np.abs(wanted).max() / (error.max() + 1e-9)))
    assert moved > 10  # The estimate's error is small beside what it estimates.
