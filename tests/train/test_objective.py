"""What an attention adds to the loss: the penalty, and the gradient of its draws."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capjax.data.batches import pack
from capjax.models.contract import gather_packed
from capjax.train import objective as objectives
from capjax.train.objective import batch_counts, run
from capjax.train.objectives.cross_entropy import CrossEntropy, attention_penalty
from capjax.train.scheduled_sampling import own_words_schedule
from tests.helpers.effort import sweep
from tests.helpers.recurrent_cases import B, C, P, T, V, captioner, data, variables

# Compiling takes longer than all else here.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
LENGTHS = np.array([[3, 7, 0], [1, 2, 6]], np.int32)


def batch_of(packed=False):
    features, tokens = data()
    batch = {"features": features, "lengths": jnp.asarray(LENGTHS)}
    batch["tokens"] = jnp.concatenate([tokens, jnp.full((B, C, 1), 2)], axis=-1)
    return {**batch, "packing": jnp.asarray(pack(LENGTHS, T, 12))} if packed else batch


def share(model, params, batch, objective, *, baseline=None, step=0, key=0):
    counts = {name: jnp.maximum(n, 1) for name, n in batch_counts(model, batch).items()}
    return objective.share(
        model,
        params,
        batch,
        counts=counts,
        step=jnp.int32(step),
        key=jax.random.key(key),
        baseline=baseline,
    )


def test_penalty_is_what_the_paper_says():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(P), (B, C, T, 2)).astype(np.float32)
    expected = sum(
        ((1 - weights[b, c, : LENGTHS[b, c]].sum(0)) ** 2).mean()
        for b, c in itertools.product(range(B), range(C))
        if LENGTHS[b, c]
    )
    batch = batch_of()
    np.testing.assert_allclose(attention_penalty(weights, batch), expected, rtol=1e-5)
    batch = batch_of(packed=True)
    packed = gather_packed(jnp.asarray(weights), batch["packing"])
    np.testing.assert_allclose(attention_penalty(packed, batch), expected, rtol=1e-5)


def test_penalty_evens_out_where_a_caption_looks():
    model, batch = captioner(), batch_of()
    params = variables(model)
    objective = CrossEntropy(attention_penalty=5.0)

    @jax.jit
    def step(params):
        (_, sums), grads = jax.value_and_grad(
            lambda p: share(model, p, batch, objective), has_aux=True
        )(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), sums["attention_penalty"]

    found = []
    for _ in range(30):
        params, penalty = step(params)
        found.append(float(penalty))
    assert found[-1] < 0.95 * found[0]


@pytest.mark.parametrize("attention", sweep(["soft", "hard"], ["soft"]))
def test_packing_changes_no_objective(attention):
    model = captioner(attention=attention, expected_rate=0.5)
    params = variables(model)
    objective = CrossEntropy(label_smoothing=0.1, attention_penalty=0.7, entropy_weight=0.3)
    baseline = jnp.float32(-2.0) if attention == "hard" else None
    value = jax.jit(lambda p, batch: share(model, p, batch, objective, baseline=baseline)[0])
    plain, packed = (jax.value_and_grad(value)(params, batch_of(kind)) for kind in (False, True))
    np.testing.assert_allclose(packed[0], plain[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), packed[1], plain[1])


@pytest.mark.parametrize("packed", [False, True])
def test_a_prompt_is_fed_without_a_loss(packed):
    model = captioner()
    params, plain, skip = variables(model), batch_of(), 2
    batch = {**batch_of(packed), "prompt": jnp.full(B, skip, jnp.int32)}
    output, losses = run(model, params, batch, train=False, label_smoothing=0.1)
    assert output.logits.shape[1:3] == ((1, 12) if packed else (C, T))
    each = run(model, params, plain, train=False, label_smoothing=0.1)[1]
    later = np.arange(T) >= skip
    for name, total in losses.sums().items():
        whole = each.weight if name == "tokens" else getattr(each, name)
        np.testing.assert_allclose(total, (whole * later).sum(), rtol=1e-5)
    # Captions of 1 or 2 tokens have no loss left.
    assert float(batch_counts(model, batch)["tokens"]) == losses.sums()["tokens"] <= 1 + 5 + 4


@pytest.mark.parametrize("attention", sweep(["soft", "hard"], ["soft"]))
def test_a_large_vocabulary_is_never_whole(attention, monkeypatch):
    """The program has no array of all logits, and computes the same objective and gradient."""
    model, batch = captioner(attention=attention, output="deep"), batch_of(packed=True)
    params, tokens = variables(model), B * 12
    rule = CrossEntropy(label_smoothing=0.1, attention_penalty=0.7)
    baseline = jnp.float32(-2.0) if attention == "hard" else None
    found = []
    for most in (tokens * V, 5 * V):
        monkeypatch.setattr(objectives, "MOST_LOGITS", most)

        def value(p):
            return share(model, p, batch, rule, baseline=baseline)

        lowered = jax.jit(jax.value_and_grad(value, has_aux=True)).lower(params)
        program = lowered.compile(QUICK)
        text = program.as_text()
        assert (most < tokens * V) != (f"f32[{tokens},{V}]" in text or f"[{B},1,12,{V}]" in text)
        found.append(program(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), *found)


def exact_bound(model, params, features, tokens):
    """sum over s of p(s) log p(y, s): all places that two steps may look at, one by one."""
    memory = model.apply(params, features, method="encode")
    carry = model.apply(params, memory, 1, 2, method="init_carry")

    def one_place(place):
        values = jnp.broadcast_to(features[:, place : place + 1], features.shape)
        return model.apply(
            params, memory.replace(values=values), 1, 2, method="init_carry"
        ).per_image

    def look(state, t):
        """Weights, and for each place the state and log-probability that follow."""
        token = tokens[:, :, t]
        _, _, weights = model.apply(
            params, carry.replace(per_beam=state), token, attention=True, method="step"
        )
        after = []
        for place in range(features.shape[1]):
            seen = carry.replace(per_image=one_place(place), per_beam=state)
            new, logits, _ = model.apply(params, seen, token, method="step")
            log_prob = jax.nn.log_softmax(logits)[0, 0, tokens[0, 0, t + 1]]
            after.append((new.per_beam, log_prob))
        return weights[0, 0, 0], after

    total = 0.0
    first_weights, first = look(carry.per_beam, 0)
    for first_weight, (state, first_log_prob) in zip(first_weights, first, strict=True):
        second_weights, second = look(state, 1)
        for weight, (_, log_prob) in zip(second_weights, second, strict=True):
            total += first_weight * weight * (first_log_prob + log_prob)
    return total


@pytest.mark.slow(reason="thousands of draws; the laws of hard attention are asked every day")
def test_hard_attention_estimates_the_exact_gradient():
    """Of the paper's bound, with two places and two words, whatever the baseline."""
    model = captioner(attention="hard", expected_rate=0.0, initial_state="zero", cell="gru")
    model = model.clone(encoder=model.encoder.clone(grid=(1, 2)))
    features = data()[0][:1, :2]
    tokens = jnp.asarray([[[1, 7, 9]]])
    params = variables(captioner(cell="gru", initial_state="zero"))
    exact = jax.jit(jax.grad(lambda p: exact_bound(model, p, features, tokens)))(params)
    batch = {"features": features, "tokens": tokens, "lengths": jnp.asarray([[2]])}

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def estimate(key, baseline):
        def value(p):
            return CrossEntropy().share(
                model,
                p,
                batch,
                counts={"tokens": 1.0, "captions": 1.0},
                step=jnp.int32(0),
                key=key,
                baseline=baseline,
            )[0]

        return jax.grad(value)(params)

    for baseline in (0.0, -2.5):
        drawn = estimate(jax.random.split(jax.random.key(0), 6000), jnp.float32(baseline))
        moved = 0.0
        for found, wanted in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
            found = np.asarray(found, np.float64)
            error = found.std(0) / np.sqrt(len(found))
            assert np.all(np.abs(found.mean(0) + wanted) < 5 * error + 1e-5)
            moved = max(moved, float(np.abs(wanted).max() / (error.max() + 1e-9)))
        assert moved > 20  # The estimate's error is small beside what it estimates.


@pytest.mark.slow(reason="compiles hard attention once more")
def test_entropy_is_rewarded():
    model, batch = captioner(attention="hard"), batch_of()
    params = variables(model)
    plain, entropic = (
        share(model, params, batch, CrossEntropy(entropy_weight=w), baseline=jnp.float32(0))[0]
        for w in (0.0, 1.0)
    )
    # Of each token's weights over six places; those with a banned target count, too.
    most = np.log(P) * LENGTHS.sum() / float(batch_counts(model, batch)["tokens"])
    assert 0.5 * most < float(plain - entropic) < most


def test_the_share_of_own_words_follows_the_schedule():
    steps = np.array([0, 100, 10_000])
    linear = own_words_schedule(kind="linear", k=1.0, slope=1e-3, floor=0.75)
    np.testing.assert_allclose(linear(steps), [0, 0.1, 0.25], atol=1e-6)
    exponential = own_words_schedule(kind="exponential", k=0.999, slope=0.0, floor=0.0)
    np.testing.assert_allclose(exponential(steps), 1 - 0.999**steps, atol=1e-4)
    sigmoid = own_words_schedule(kind="inverse_sigmoid", k=500.0, slope=0.0, floor=0.0)
    np.testing.assert_allclose(sigmoid(steps), 1 - 500 / (500 + np.exp(steps / 500)), atol=1e-5)
    assert own_words_schedule(kind="none", k=1.0, slope=0.0, floor=0.0) is None
    for kind, k, floor in [("linear", 1.5, 0), ("linear", 0.5, 0.7), ("exponential", 1.0, 0)]:
        with pytest.raises(ValueError, match=f"kind '{kind}' needs"):
            own_words_schedule(kind=kind, k=k, slope=1e-3, floor=floor)
    with pytest.raises(ValueError, match="must be 'none', 'linear'"):
        own_words_schedule(kind="cosine", k=1.0, slope=0.0, floor=0.0)


@pytest.mark.slow(reason="compiles a recurrent step; the schedule itself is tested every day")
def test_own_words_change_the_objective_by_step():
    model, batch = captioner(), batch_of()
    params = variables(model)
    objective = CrossEntropy(
        own_words=own_words_schedule(kind="linear", k=1.0, slope=0.5, floor=0.0)
    )
    start, end = (share(model, params, batch, objective, step=step)[0] for step in (0, 2))
    forced = share(model, params, batch, CrossEntropy())[0]
    np.testing.assert_allclose(start, forced, rtol=1e-5)
    assert abs(float(end - forced)) > 1e-3
    assert V == 19
