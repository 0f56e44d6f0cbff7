"""The gradient of a reward is the one that all captions together have."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.bahdanau import BahdanauDecoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.parallel import devices
from capjax.parts import REWARDS
from capjax.train.objectives.self_critical import SelfCritical, distinct, token_divergence
from capjax.train.state import init_state
from capjax.train.step import make_train_step
from tests.helpers.effort import sweep

# pad, bos, eos, unk and two words; captions of at most two tokens.
V, T, K = 6, 2, 3
EOS, WORDS = 2, (2, 4, 5)
IDS = {"bos_id": 1, "eos_id": EOS, "pad_id": 0}
# All captions of at most two tokens, and their lengths.
CAPTIONS = np.array([[EOS, 0], *itertools.product(WORDS[1:], WORDS)], np.int32)
LENGTHS = np.array([1, *[2] * 6], np.int32)
PAYS = {
    caption: pay for caption, pay in zip(map(tuple, CAPTIONS), (1, 0, 3, 2, 5, -1, 2), strict=True)
}


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
        return self.scale * (found + (hypotheses[..., 0] == references[:, :1, 0])).astype(
            jnp.float32
        )


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
    return model, jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape), variables)


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


def make(objective=SelfCritical, **fields):
    return objective(**{"rewards": ("pays",), "samples": K, "max_length": T, **IDS, **fields})


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
    first = jnp.tile(np.array([IDS["bos_id"], *objective.prompt]), (*captions.shape[:2], 1))
    fed = jnp.concatenate([first, captions[..., :-1]], axis=-1)
    logits = model.apply(variables, batch["features"], fed, train=False).logits
    logits = logits[:, :, len(objective.prompt) :]
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
    "greedy": {"baseline": "greedy", "samples": 1, "temperature": 0.6},
    "nucleus": {"top_p": 0.7, "kl_weight": 0.4},
    "prompt": {"prompt": (5,), "temperature": 0.6, "kl_weight": 0.7},
}


@pytest.mark.parametrize("case", sweep(CASES, ("nucleus",)))
def test_estimates_the_exact_policy_gradient(case):
    objective = make(**CASES[case])
    (model, variables), (_, began) = model_and_variables(), model_and_variables(seed=1)
    batch = batch_of(1)
    exact = jax.jit(jax.grad(lambda p: exact_objective(objective, model, p, batch, began)))(
        variables
    )

    @jax.jit
    @jax.vmap
    def estimate(keys):
        drawn = {**batch, "keys": keys}
        return jax.grad(lambda p: share(objective, model, p, drawn, began)[0])(variables)

    count = 3000
    keys = np.random.default_rng(0).integers(2**32, size=(count, 1, 2), dtype=np.uint32)
    drawn = estimate(jnp.asarray(keys))
    moved = 0.0
    for found, wanted in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
        found = np.asarray(found, np.float64)
        error = found.std(0) / np.sqrt(count)
        assert np.all(np.abs(found.mean(0) - wanted) < 5 * error + 1e-5)
        moved = max(moved, float(np.abs(wanted).max() / (error.max() + 1e-9)))
    assert moved > 10  # The estimate's error is small beside what it estimates.


@functools.cache
def step_of(objective, accumulate, seed):
    model, _ = model_and_variables()
    optimizer = optax.sgd(1.0)
    return devices.map_devices(
        make_train_step(model, optimizer, seed=seed, objective=objective, accumulate=accumulate)
    )


def update(objective, batch, accumulate=1, seed=0):
    """The change of the parameters by a step, and its metrics."""
    (_, variables), (_, began) = model_and_variables(), model_and_variables(seed=1)
    constants = objective.prepare((), began["params"], eos_id=EOS, vocab_size=V)
    state = init_state(variables["params"], optax.sgd(1.0), ema=False)
    state = devices.replicate(state.replace(constants=constants))
    after, metrics = step_of(objective, accumulate, seed)(state, devices.shard(batch))
    metrics.pop("nonfinite")
    moved = jax.tree.map(
        lambda a, b: np.asarray(a - b), devices.unreplicate(after.params), variables["params"]
    )
    return moved, {name: float(value) for name, value in devices.unreplicate(metrics).items()}


@pytest.mark.slow(reason="tests/decode/test_sampling.py asks it of all samples every day")
def test_an_images_samples_do_not_depend_on_its_batch():
    batch = jax.tree.map(np.asarray, batch_of(8))
    moved, metrics = update(make(), batch)
    # Neither on the seed of dropout.
    again, same = update(make(), batch, accumulate=4, seed=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, moved)
    assert metrics == pytest.approx(same, rel=1e-5)
    assert metrics["captions"] == 8 * K
    assert "loss" not in metrics
    other, _ = update(make(), {**batch, "keys": batch["keys"] + 1})
    assert any(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(moved), strict=True)
    )


@pytest.mark.parametrize("baseline", sweep(["mean", "greedy"], []))
def test_equal_rewards_change_no_parameter(baseline):
    moved, metrics = update(make(rewards=("pays_nothing",), baseline=baseline), batch_of(4))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(moved))
    assert metrics["grad_norm"] == metrics["reward"] == metrics["advantage_spread"] == 0
    assert metrics["kl"] > 0


class Loose(SelfCritical):
    """Draws from all tokens, as if rounding had put them into the set."""

    def _draw(self, *arguments):
        return make()._draw(*arguments)


@pytest.mark.slow(reason="the exact gradient of restricted draws is compared every day")
def test_restricted_draws_have_finite_log_probabilities():
    model, variables = model_and_variables()
    _, began = model_and_variables(seed=1)
    objective = make(Loose, top_p=1e-6, temperature=0.1, kl_weight=1.0)
    value = jax.value_and_grad(
        lambda p: share(objective, model, p, batch_of(8), began), has_aux=True
    )
    (total, sums), grads = jax.jit(value)(variables)
    assert sums["kl"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((total, sums, grads)))


def test_divergence_and_distinct_ngrams():
    rng = np.random.default_rng(0)
    logits, others = rng.normal(size=(2, 3, V))
    logits[:, 4] = -np.inf
    p, q = jax.nn.softmax(logits), jax.nn.softmax(others)
    exact = np.where(p > 0, p * np.log(np.maximum(p, 1e-30) / q), 0).sum(-1)
    np.testing.assert_allclose(token_divergence(logits, others), exact, rtol=1e-5)
    tokens = np.array([[[7, 8, 7, 8], [7, 8, 0, 0], [5, 0, 0, 0]], [[0] * 4] * 3])
    lengths = np.array([[4, 2, 1], [0, 0, 0]])
    np.testing.assert_allclose(distinct(tokens, lengths, 1), [[3 / 7], [0]])
    # 7 8, 8 7, 7 8 and 7 8.
    np.testing.assert_allclose(distinct(tokens, lengths, 2), [[2 / 4], [0]])


def test_impossible_settings_are_named():
    for fields, message in (
        ({"samples": 1}, "objective.samples=1 must be 2 or more"),
        ({"rewards": ("pays", "pays")}, "objective.reward_weights"),
        ({"rewards": ("cidr",)}, "objective.rewards.*there is no reward 'cidr'"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 must be 0"),
        ({"attention_penalty": 1.0}, "attention_penalty=1.0 must be 0"),
        ({"own_words": lambda step: 0.5}, "scheduled_sampling.kind must be 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**fields)
    with pytest.raises(ValueError, match=r"objective.max_length=5 must be at most 4"):
        make(max_length=5).check_decoder(TransformerDecoder(V, 4, 8, 1, 2))
    with pytest.raises(ValueError, match=r"at most 3, the decoder's max_length, without the 1 tok"):
        make(max_length=4, prompt=(5,)).check_decoder(TransformerDecoder(V, 4, 8, 1, 2))
    with pytest.raises(ValueError, match=r"decoder\.attention='hard'"):
        make().check_decoder(BahdanauDecoder(V, 8, 8, attention="hard"))
