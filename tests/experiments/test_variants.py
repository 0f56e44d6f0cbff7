"""The helpers that a sweep file is written with."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import base
from experiments.variants import (
    Sweep,
    SweepError,
    Variant,
    apply,
    check,
    draw,
    grid,
    log_uniform,
    one_by_one,
    one_of,
    uniform,
    values,
)

FIELDS = ("decoder.width", "encoder.depth", "num_steps")
AXES = st.lists(
    st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True), min_size=1, max_size=3
)


def config_of(variant):
    config = base.get_config()
    apply(config, variant.overrides)
    return config


def fields_of(config):
    return [config.decoder.width, config.encoder.depth, config.num_steps]


@given(AXES)
def test_a_grid_has_every_combination_once(options):
    axes = [values(field, some) for field, some in zip(FIELDS, options, strict=False)]
    variants = grid(*axes)
    assert len({variant.name for variant in variants}) == math.prod(map(len, options))
    found = {tuple(fields_of(config_of(variant))[: len(axes)]) for variant in variants}
    assert len(found) == len(variants)
    for column, some in zip(zip(*found, strict=True), options, strict=False):
        assert {*column} == {*some}


@given(AXES)
def test_one_by_one_changes_one_axis_at_a_time(options):
    axes = [values(field, some) for field, some in zip(FIELDS, options, strict=False)]
    first = Variant("first", {"decoder.width": 60, "encoder.depth": 61, "num_steps": 62})
    variants = one_by_one(first, *axes)
    assert variants[0] is first
    assert len(variants) == 1 + sum(map(len, options))
    for variant in variants[1:]:
        pairs = zip(fields_of(config_of(variant)), (60, 61, 62), strict=True)
        assert sum(left != right for left, right in pairs) == 1


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**31))
def test_draws_are_of_seed_number_and_field_alone(few, more, seed):
    fields = {"optimizer.learning_rate": log_uniform(1e-4, 1e-2), "label_smoothing": uniform(0, 1)}
    variants = draw(few, fields, seed=seed)
    assert len(variants) == few
    assert draw(few + more, fields, seed=seed)[:few] == variants
    wider = draw(few, {"decoder.width": one_of((1, 2)), **fields}, seed=seed)
    for one, other in zip(variants, wider, strict=True):
        assert other.name == one.name
        assert {**other.overrides, **one.overrides} == other.overrides
        assert 1e-4 <= one.overrides["optimizer.learning_rate"] <= 1e-2
        assert 0 <= one.overrides["label_smoothing"] <= 1


def test_draws_spread_and_differ_by_seed():
    rates = [v.overrides["x"] for v in draw(300, {"x": log_uniform(1e-4, 1e-2)}, seed=1)]
    # The median of what is uniform in its logarithm is the geometric mean, 1e-3.
    assert 7e-4 < sorted(rates)[150] < 1.4e-3
    assert len({*rates}) > 250
    assert rates != [v.overrides["x"] for v in draw(300, {"x": log_uniform(1e-4, 1e-2)}, seed=2)]
    assert {v.overrides["x"] for v in draw(40, {"x": one_of("ab")})} == {*"ab"}


@pytest.mark.parametrize(
    "make", [lambda: log_uniform(0, 1), lambda: uniform(2, 1), lambda: one_of([])]
)
def test_draws_of_nothing_are_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"decoder.num_layer": 2}, "did you mean decoder.num_layers"),
        ({"decode.num_layers": 2}, "did you mean"),
        ({"decoder.width.more": 2}, "there is no such field"),
        ({"seeds": 2}, "did you mean seed"),
        ({"decoder.width": "wide"}, "decoder.width='wide': "),
        ({"decoder": 3}, "decoder=3: "),
    ],
)
def test_fields_that_there_are_not_are_named(overrides, message):
    with pytest.raises(SweepError) as raised:
        config_of(Variant("v", overrides))
    assert message in str(raised.value)
    assert next(iter(overrides)) in str(raised.value)


def test_sections_are_replaced_and_not_shared():
    section = base.bahdanau_decoder()
    gru = Variant("gru", {"decoder": section, "decoder.cell": "gru", "adapter": base.adapter()})
    config = config_of(gru)
    assert (config.decoder.name, config.decoder.cell) == ("bahdanau", "gru")
    assert section.cell == "lstm"
    config.decoder.width = 7
    assert config_of(gru).decoder.width == section.width


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variants": [Variant("a"), Variant("a")]}, "two variants have the name a"),
        ({"variants": []}, "a list of at least one Variant"),
        ({"variants": (Variant(name) for name in "ab")}, "a list of at least one Variant"),
        ({"variants": [Variant("a"), values("b", (1,))]}, "unpack a list with a star"),
        ({"variants": [Variant("../a")], "baseline": "../a"}, "the name '../a'"),
        ({"variants": [Variant(".a")], "baseline": ".a"}, "the name '.a'"),
        ({"baseline": "b"}, "baseline='b' is no variant; the variants are a"),
        ({"evaluations": {}}, "evaluations must not be empty"),
        ({"evaluations": {"a/b": {}}}, "the name 'a/b'"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (0.5,)}, "seeds"),
    ],
)
def test_a_sweep_that_can_not_be_is_refused(fields, message):
    whole = {
        "config": ConfigDict,
        "variants": [Variant("a")],
        "evaluations": {"greedy": {}},
        "baseline": "a",
    }
    check(Sweep(**whole))
    with pytest.raises(SweepError) as raised:
        check(Sweep(**{**whole, **fields}))
    assert message in str(raised.value)
