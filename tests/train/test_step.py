"""Eight devices, and microbatches, give one device's loss and gradient."""

import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.parallel import devices
from capjax.train import optimizer as optimizers
from capjax.train.objectives.cross_entropy import CrossEntropy
from capjax.train.optimizer import clipped, learning_rate_schedule, muon
from capjax.train.optimizer_fields import Optimizer
from capjax.train.state import init_state, update_ema
from capjax.train.step import make_train_step
from configs import base
from tests.helpers.command_line import python
from tests.helpers.effort import slow_too, sweep
from tests.helpers.eight_devices import measure


def run(devices, *cases):
    """What is measured of each (layout, accumulate)."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    arguments = (f"{layout}:{accumulate}" for layout, accumulate in cases)
    done = python("-m", "tests.helpers.eight_devices", *arguments, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
    measured = list(map(json.loads, done.stdout.splitlines()))
    assert {values["devices"] for values in measured} == {devices}
    return dict(zip(cases, measured, strict=True))


@pytest.fixture(scope="module")
def one():
    """Of this process's one device."""
    assert jax.device_count() == 1
    return measure(1, "padded")


@pytest.fixture(scope="module")
def hard():
    return measure(1, "hard")


@pytest.fixture(scope="module")
def self_critical():
    return measure(1, "self_critical")


LAYOUTS = [("padded", 1), ("packed_frozen", 2)]
# Devices and microbatches at once.
DRAWING = [("hard", 2), ("self_critical_stacked", 2)]


@pytest.fixture(scope="module")
def eight():
    """Of all cases, in one process."""
    return run(8, *([*LAYOUTS, *DRAWING] if slow_too() else LAYOUTS[:1]))


@pytest.mark.slow(reason="a run of hard attention goes on every day")
def test_hard_attentions_baseline_follows_the_log_likelihood(hard):
    np.testing.assert_allclose(hard["next_baseline"], -0.9 * hard["loss"], rtol=1e-4)


@pytest.mark.slow(reason="devices share their sums every day")
def test_hard_attention_and_its_baseline_are_one_devices(hard, eight):
    several = eight["hard", 2]
    for name in ("loss", "objective", "grad_norm", "attention_penalty", "next_baseline"):
        np.testing.assert_allclose(several[name], hard[name], rtol=1e-5, err_msg=name)
    assert hard["next_baseline"] < 0


@pytest.mark.slow(reason="devices share their sums, and microbatches draw their samples, every day")
def test_samples_and_their_gradient_are_one_devices(self_critical, eight):
    # Of stacked blocks, too.
    several, one = eight["self_critical_stacked", 2], self_critical
    assert several.keys() == one.keys()
    for name in ("reward", "reward_spread", "advantage_spread", "kl", "distinct_2", "grad_norm"):
        assert one[name] > 0
        np.testing.assert_allclose(several[name], one[name], rtol=1e-5, err_msg=name)
    for part in ("decoder", "encoder"):
        gradient, same = several["gradient"][part], one["gradient"][part]
        np.testing.assert_allclose(gradient, same, atol=1e-5 * np.abs(same).max())


@pytest.mark.parametrize(("layout", "accumulate"), sweep(LAYOUTS, LAYOUTS[:1]))
def test_eight_devices_equal_one(one, eight, layout, accumulate):
    assert_equal(eight[layout, accumulate], one, layout)


@pytest.mark.parametrize(
    ("layout", "accumulate"), sweep([("packed", 4), ("padded", 4), ("packed", 1)], [("packed", 4)])
)
def test_microbatches_and_packing_change_nothing(one, layout, accumulate):
    # As a process of its own hands it on.
    assert_equal(json.loads(json.dumps(measure(accumulate, layout))), one, layout)


def assert_equal(several, one, layout):
    for name in ("tokens", "captions"):
        assert several[name] == one[name]
    scalars = {"loss", "objective", "accuracy", "grad_norm", "eval_nll", "attention_penalty"}
    # Of fewer parameters the gradient is shorter.
    for name in scalars - ({"grad_norm"} if "frozen" in layout else set()):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-5, err_msg=name)
    if "captions_said" in several:
        texts, scores = zip(*several["captions_said"], strict=True)
        assert list(texts) == [text for text, _ in one["captions_said"]]
        np.testing.assert_allclose(scores, [score for _, score in one["captions_said"]], rtol=1e-5)
        assert len(set(texts)) > 1
    parts = {"decoder"} if "frozen" in layout else {"decoder", "encoder"}
    assert several["gradient"].keys() == several["ema"].keys() == parts
    for part in parts:
        gradient, same = several["gradient"][part], one["gradient"][part]
        np.testing.assert_allclose(gradient, same, atol=1e-6 * np.abs(same).max() + 1e-7)
        np.testing.assert_allclose(several["ema"][part], one["ema"][part], atol=1e-6)


def small(**fields):
    return Captioner(
        FeatureEncoder((2, 2)), TransformerDecoder(9, 5, 8, 1, 2, banned=(0, 1, 3), **fields)
    )


def batch_of(rng):
    return {
        "features": rng.normal(size=(4, 4, 6)).astype(np.float32),
        "tokens": rng.integers(4, 9, (4, 2, 6)).astype(np.int32),
        "lengths": rng.integers(1, 6, (4, 2)).astype(np.int32),
    }


def adamw(schedule, *, b1, b2, weight_decay, **clipping):
    rule = optimizers.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay)
    return clipped(rule, **{"clip_norm": 0.0, **clipping})


@pytest.mark.slow(reason="a run learns and is seeded every day")
def test_training_learns_a_batch_and_dropout_is_by_seed():
    rng = np.random.default_rng(0)
    batch = devices.shard(batch_of(rng))
    model = small(dropout=0.1)
    optimizer = adamw(
        learning_rate_schedule(1e-2, 5, 200), b1=0.9, b2=0.98, weight_decay=0.01, clip_norm=1.0
    )
    params = model.init_variables(jax.random.key(0), (4, 6))["params"]
    start = init_state(params, optimizer, ema=False)

    @functools.cache
    def step_of(seed):
        step = make_train_step(model, optimizer, seed=seed, objective=CrossEntropy())
        return devices.map_devices(step)

    def losses(seed, steps):
        state, step, found = devices.replicate(start), step_of(seed), []
        for _ in range(steps):
            state, metrics = step(state, batch)
            found.append(float(metrics["loss"][0]))
        return found

    first = losses(0, 120)
    # Captions of random words can't be told apart before their first word: not zero.
    assert first[-1] < 0.6 * first[0]
    assert losses(0, 3) == first[:3]
    assert losses(1, 3) != first[:3]


def test_accumulation_must_divide():
    optimizer = optax.sgd(1.0)
    model = small()
    state = devices.replicate(
        init_state(model.init_variables(jax.random.key(0), (4, 6))["params"], optimizer, False)
    )
    step = devices.map_devices(
        make_train_step(model, optimizer, seed=0, objective=CrossEntropy(), accumulate=3)
    )
    with pytest.raises(ValueError, match="accumulate=3 does not divide the 4 images"):
        step(state, devices.shard(batch_of(np.random.default_rng(0))))


def test_schedule_warms_up_and_ends_at_zero():
    schedule = learning_rate_schedule(0.5, 10, 110)
    assert float(schedule(0)) == 0
    np.testing.assert_allclose(schedule(5), 0.25)
    np.testing.assert_allclose(schedule(10), 0.5)
    np.testing.assert_allclose(schedule(60), 0.25, atol=1e-6)
    np.testing.assert_allclose(schedule(110), 0, atol=1e-7)
    with pytest.raises(ValueError, match="warmup_steps=110 must be below num_steps=110"):
        learning_rate_schedule(0.5, 110, 110)


def test_only_matrices_decay_and_gradients_are_clipped():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    options = {"b1": 0.9, "b2": 0.98, "clip_norm": 1.0}
    optimizer = adamw(lambda step: 0.1, weight_decay=0.5, **options)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_allclose(updates["bias"], 0)
    # With the second moment as large as the epsilon is small, only clipping tells sizes apart.
    state = optimizer.init(params)
    _, clipped = optimizer.update(jax.tree.map(lambda x: 100 * x, params), state, params)
    moments = [leaf for leaf in jax.tree.leaves(clipped) if leaf.shape == (2, 2)]
    np.testing.assert_allclose(moments[0], 0.1 / np.sqrt(6), rtol=1e-5)


def test_gradients_are_clipped_by_value_and_the_encoder_learns_at_its_own_rate():
    params = {"encoder": {"w": jnp.ones(())}, "decoder": {"w": jnp.ones(())}}
    options = {"b1": 0.0, "b2": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
    optimizer = adamw(lambda step: 0.1, encoder_scale=0.25, **options)
    grads = {"encoder": {"w": jnp.full((), 3.0)}, "decoder": {"w": jnp.full((), -7.0)}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["decoder"]["w"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["encoder"]["w"], -0.025, rtol=1e-5)
    optimizer = adamw(lambda step: 0.1, encoder_scale=0.25, encoder_start=2, **options)
    state, moved = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
        moved.append(updates["encoder"]["w"])
        np.testing.assert_allclose(updates["decoder"]["w"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(moved, [0, 0, -0.025], rtol=1e-5)
    options["b1"] = 0.9
    optimizer = adamw(lambda step: 0.1, clip_value=5.0, **options)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    mean = next(part.mu for part in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "mu")))
    np.testing.assert_allclose([mean["encoder"]["w"], mean["decoder"]["w"]], [0.3, -0.5], rtol=1e-5)


def test_muon_orthogonalises_matrices_and_convolutions_and_leaves_words_to_adam():
    rng = np.random.default_rng(0)
    params = {
        "encoder": {"stem": {"kernel": rng.normal(size=(3, 3, 2, 8)), "bias": np.zeros(8)}},
        "decoder": {
            "tokens": {"embedding": rng.normal(size=(9, 8))},
            "block": {"kernel": rng.normal(size=(8, 8))},
            "output": {"kernel": rng.normal(size=(8, 9))},
        },
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    grads = jax.tree.map(lambda leaf: leaf**2, params)
    options = {"b1": 0.9, "b2": 0.98, "weight_decay": 0.0}
    rule = muon(lambda step: 0.1, lambda step: 1.0, **options)
    updates, _ = rule.update(grads, rule.init(params), params)
    plain = optax.adamw(lambda step: 0.1, b1=0.9, b2=0.98, weight_decay=0.0, nesterov=True)
    wanted, _ = plain.update(grads, plain.init(params), params)
    stem = np.asarray(updates["encoder"]["stem"]["kernel"]).reshape(18, 8)
    for matrix in (stem, np.asarray(updates["decoder"]["block"]["kernel"])):
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values.min() > 0.5
        assert values.max() < 1.5
    for part, name in (("tokens", "embedding"), ("output", "kernel")):
        found = updates["decoder"][part][name]
        np.testing.assert_allclose(found, wanted["decoder"][part][name], rtol=1e-4)
    np.testing.assert_allclose(updates["encoder"]["stem"]["bias"], 0, atol=1e-6)


def test_muon_over_stacks_has_the_updates_of_optaxs():
    rng = np.random.default_rng(0)
    # Wide, tall, square, several of one shape, convolutions; and what Adam trains.
    shapes = [(8, 8), (8, 8), (4, 8), (8, 4), (3, 3, 2, 8), (1, 1, 8, 2)]

    def tree():
        kernels = {f"layer_{i}": {"kernel": rng.normal(size=s)} for i, s in enumerate(shapes)}
        others = {"norm": {"bias": rng.normal(size=8)}, "output": {"kernel": np.ones((8, 9))}}
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), {**kernels, **others})

    params = tree()
    options = {"b1": 0.9, "b2": 0.98, "weight_decay": 0.01}
    rates = (lambda step: 0.1, lambda step: 0.02 * (step + 1))
    peer = optax.contrib.muon(
        rates[1],
        weight_decay=0.01,
        adam_b1=0.9,
        adam_b2=0.98,
        adam_learning_rate=rates[0],
        muon_weight_dimension_numbers=lambda params: {
            name: {
                leaf: optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim - 1)), (x.ndim - 1,))
                if name.startswith("layer")
                else None
                for leaf, x in leaves.items()
            }
            for name, leaves in params.items()
        },
    )
    rules = [peer, muon(*rates, **options)]
    states = [rule.init(params) for rule in rules]
    for _ in range(3):
        grads = tree()
        found = [
            rule.update(grads, state, params) for rule, state in zip(rules, states, strict=True)
        ]
        (one, stacked), states = zip(*found, strict=True)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), stacked, one
        )


@pytest.mark.parametrize(("kind", "mean"), [("adamw", 1.0), ("muon", 1 + 0.9 / 1.9)])
def test_a_configs_epsilon_is_added_to_the_root(kind, mean):
    fields = {"kind": kind, "schedule": "constant", "warmup_steps": 0, "clip_norm": 0.0}
    section = {**base.get_config().optimizer, **fields, "weight_decay": 0.0, "epsilon": 1.0}
    rule = Optimizer(**section).transformation(10)
    params = {"decoder": {"bias": jnp.ones(2)}}
    # Muon's Adam has Nesterov's momentum.
    updates, _ = rule.update(params, rule.init(params), params)
    np.testing.assert_allclose(updates["decoder"]["bias"], -1e-3 * mean / 2, rtol=1e-5)


def test_a_constant_rate_warms_up_and_stays():
    schedule = learning_rate_schedule(0.5, 10, 110, "constant")
    np.testing.assert_allclose([schedule(5), schedule(10), schedule(100)], [0.25, 0.5, 0.5])
    assert float(learning_rate_schedule(0.5, 0, 110, "constant")(0)) == 0.5
    with pytest.raises(ValueError, match="schedule must be 'cosine', 'linear' or 'constant'"):
        learning_rate_schedule(0.5, 0, 110, "step")


def test_average_keeps_up_early_and_is_slow_late():
    old, new = {"w": jnp.zeros(())}, {"w": jnp.ones(())}
    np.testing.assert_allclose(update_ema(old, new, jnp.int32(0), 0.99)["w"], 0.9)
    np.testing.assert_allclose(update_ema(old, new, jnp.int32(10**6), 0.99)["w"], 0.01, rtol=1e-4)
