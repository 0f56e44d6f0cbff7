"""Whatever stands in a field of a config, it is right or named before anything is read."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from capjax.config import build, checks, fields, questions
from capjax.config.errors import ConfigError
from capjax.data.augment import Augmentation
from capjax.models.contract import NoFields
from capjax.parts.check import fields_of
from capjax.train.early_stopping import EarlyStopping
from configs import base, flickr8k_transformer
from tests.helpers.effort import examples, slow_too
from tests.helpers.shipped import CONFIGS, WITH_ARGUMENTS

ODD = [
    *(None, True, False, 0, 1, -1, -7, 2**31, 10**30, -(10**30)),
    *(0.0, 0.5, -0.5, 1e-300, 1e38, 1e300, math.nan, math.inf, -math.inf),
    *("", "abc", "no\nlines", "\x00", (), (0,), (-1,), (1, 2), ("",), ("abc",), [], [1], {}),
    *({"a": 1}, b"abc", 1j, object()),
]


def with_bahdanau():
    config = base.get_config()
    config.decoder = base.bahdanau_decoder()
    return config


def with_vit():
    """Its fields are of files, and these are the defaults."""
    config = flickr8k_transformer.get_config()
    config.encoder = base.vit()
    config.encoder.cache_views = 6
    return config


MAKERS = {**CONFIGS, "bahdanau": with_bahdanau, **WITH_ARGUMENTS, "vit": with_vit}


def small_patches():
    config = base.get_config()
    config.dataset.image_size = config.dataset.max_length = 16
    config.decoding.max_length = 4
    config.encoder.width = config.decoder.width = 8
    config.encoder.depth = config.decoder.num_layers = 1
    return config


def small_vit():
    config = small_patches()
    config.encoder = base.vit()
    config.encoder.width = config.encoder.mlp_dim = config.encoder.patch_size = 8
    config.encoder.num_heads, config.encoder.depth, config.encoder.position_grid = 2, 1, (2, 2)
    config.adapter = base.adapter()
    config.adapter.width = 8
    config.adapter.depth = 1
    config.decoder = base.bahdanau_decoder()
    config.decoder.width = config.decoder.embed_dim = config.decoder.attention_dim = 8
    return config


def cases():
    """A config for each field; of a section's, one for each of its kinds."""
    found = {}
    for make in MAKERS.values():
        config = make()
        for name, _ in fields._leaves(config):
            section = name.split(".")[0]
            kind = config[section].get("name") if isinstance(config[section], ConfigDict) else None
            found.setdefault((name, kind), make)
    return [(make, name) for (name, _), make in found.items()]


CASES = cases()


def put(config, name, value):
    """Sets a field to what a config file might, types or not."""
    *sections, field = name.split(".")
    for section in sections:
        config = config[section]
    with config.unlocked(), config.ignore_type():
        config[field] = value


def passes(config, name, value):
    """Whether a config with `value` is accepted; then all is built that needs no data."""
    put(config, name, value)
    try:
        checks.check(config)
        build.encoder(config)
        build.objective(config)
        build.schedule(config)
        build.optimizer(config)
        build.beam_search(config.decoding)
        build.frozen_parts(config)
        questions.keeps_tokenizer(config)
        Augmentation(config.dataset.crop_area, config.dataset.flip)
        EarlyStopping(**config.early_stopping)
    except ConfigError as error:
        if name.rpartition(".")[2] not in str(error) or "\n" in str(error):
            pytest.fail(f"{name}={value!r}: {error}")
        return False
    return True


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_shipped_passes(make):
    config = make()
    assert passes(config, "seed", 0)


def test_every_field_of_a_part_is_some_configs():
    """The function of configs.base with the part's name makes its section."""
    for section, registry in fields.PARTS.items():
        for name in registry.names():
            part = registry.get(name)
            make = getattr(base, f"{name}_{section}", None) or getattr(base, name)
            required = {n for n, f in fields_of(part).items() if f.required}
            required |= fields_of(getattr(part, "training", NoFields)).keys()
            found = make("coco_captions") if name == "tfds" else make()
            assert required <= set(found), name


def test_odd_values_are_right_or_named():
    tried = [0, 0]
    for number, (make, name) in enumerate(CASES):
        config = make()
        # Every day each field takes a fifth of the values, and each value a fifth of the fields.
        for value in ODD if slow_too() else ODD[number % 5 :: 5]:
            tried[passes(config, name, value)] += 1
    assert 30 < tried[True] < tried[False]


@pytest.mark.parametrize("make", [small_patches, small_vit])
def test_odd_sizes_make_a_model_or_are_named(make):
    tried, models = 0, 0
    for name, value in fields._leaves(make()):
        sized = name.startswith(("encoder.", "adapter.", "decoder.", "dataset.image_size"))
        if sized and isinstance(value, int) and not isinstance(value, bool):
            config = make()
            tried += 1
            # No divisor of the other sizes, nor a multiple.
            models += passes(config, name, 3) and makes_a_model(config, name)
    assert 0 < models < tried


def test_widths_of_a_small_cnn_are_named():
    config = base.get_config()
    config.encoder = base.conv_encoder()
    assert passes(config, "encoder.widths", (8, 16))
    assert not passes(config, "encoder.widths", (8, 17))


def makes_a_model(config, name):
    try:
        build.shapes(config, build.captioner_of(config, vocab_size=9))
    except ConfigError as error:
        if name.rpartition(".")[2] not in str(error) or "\n" in str(error):
            pytest.fail(f"{name}: {error}")
        return False
    return True


@pytest.mark.parametrize("name", ["batch_size", "decoder.width"])
def test_a_flag_is_no_number(name):
    assert not passes(base.get_config(), name, True)


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-2, 10),
        st.floats(),
        st.floats(0, 1),
        st.text(max_size=8),
        st.binary(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        # A ConfigDict itself refuses names with dots.
        st.dictionaries(
            st.text(st.characters(exclude_characters="."), max_size=3), inner, max_size=2
        ),
    ),
    max_leaves=4,
)


@settings(max_examples=examples(300))
@given(case=st.sampled_from(CASES), value=values)
def test_any_value_is_right_or_named(case, value):
    make, name = case
    passes(make(), name, value)
