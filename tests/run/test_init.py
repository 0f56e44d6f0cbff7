"""A new run takes from another what it says, by part and by word, and nothing else."""

import gc
import json
import weakref
import zlib

import jax
import numpy as np
import pytest
from flax import traverse_util

import capjax
from capjax.config import build, checks, questions
from capjax.config.errors import ConfigError
from capjax.data.tokenizer import train_word_tokenizer
from capjax.models.captioner import Captioner
from capjax.run import init
from capjax.run.train import train
from capjax.run.workdir import WorkdirError
from configs import base
from tests.helpers.small_pictures import write_pictures
from tests.helpers.small_run import write_run
from tests.helpers.tiny_run import shorten

OLD = train_word_tokenizer(["a red cat", "a red cat sits", "a wall"])
NEW = train_word_tokenizer(["the red dog", "a red wall", "a big red wall", "dog"])


@pytest.fixture(autouse=True)
def _cheap_chance(monkeypatch):
    """Numbers by seed and name, without a compilation."""
    whole = Captioner.init_variables

    def cheap(self, key, shape):
        if isinstance(key, jax.core.Tracer):
            return whole(self, key, shape)
        seed = int(jax.random.key_data(key)[-1])

        def draw(at, leaf):
            name = zlib.crc32(jax.tree_util.keystr(at).encode())
            return np.random.default_rng((seed, name)).normal(size=leaf.shape).astype(leaf.dtype)

        like = jax.eval_shape(lambda: whole(self, jax.random.key(0), shape))
        return jax.tree_util.tree_map_with_path(draw, like)

    monkeypatch.setattr(Captioner, "init_variables", cheap)
    monkeypatch.setattr(init, "_draw", cheap)  # Its program is kept, and knows no patches.


@pytest.fixture(name="config")
def make_config():
    config = base.get_config()
    config.dataset.image_size, config.dataset.max_length, config.decoding.max_length = 16, 6, 7
    config.encoder.width, config.encoder.depth, config.encoder.num_heads = 8, 1, 2
    config.decoder.width, config.decoder.num_layers, config.decoder.num_heads = 8, 1, 2
    return config


def tied(config):
    config.decoder.tie_embeddings = True


def recurrent(config):
    config.decoder = base.bahdanau_decoder()
    config.decoder.width = config.decoder.embed_dim = config.decoder.attention_dim = 8


def frozen(config):
    """A pretrained encoder that does not train, and an adapter."""
    config.encoder = base.vit()
    config.encoder.width = config.encoder.mlp_dim = config.encoder.patch_size = 8
    config.encoder.num_heads, config.encoder.depth, config.encoder.position_grid = 2, 1, (2, 2)
    config.encoder.weights, config.encoder.cache = "not read", ""
    config.adapter = base.adapter()
    config.adapter.width = 8


def variables_of(config, tokenizer, seed):
    model = build.captioner(config, tokenizer)
    return model.init_variables(jax.random.key(seed), build.resize(config.dataset).shape)


def make_run(directory, config, seed=7):
    """A run of the words of OLD that was saved and never trained; its variables."""
    variables = jax.tree.map(np.asarray, variables_of(config, OLD, seed))
    write_run(directory, config, OLD, variables)
    return variables


def begin(config, directory, tokenizer, encoder=None, **fields):
    """What a run of `config` starts with, from the run in `directory`."""
    config.init_from = str(directory)
    for name, value in fields.items():
        config[name] = value
    checks.check(config)
    model = build.captioner(config, tokenizer)
    variables, record = init.start_variables(
        config,
        model,
        build.shapes(config, model),
        pretrained=init.Pretrained(encoder),
        tokenizer=tokenizer,
        counts=np.ones(tokenizer.vocab_size),
    )
    same = jax.tree.map(lambda a, b: a.shape == b.shape, variables, build.shapes(config, model))
    assert all(jax.tree.leaves(same))
    return variables, record


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("kind", [None, tied, recurrent])
def test_words_that_both_know_are_copied_and_others_are_fresh(config, kind, tmp_path, caplog):
    if kind:
        kind(config)
    before = make_run(tmp_path, config)["params"]
    after, record = begin(config, tmp_path, NEW, init_tokenizer=False)
    assert_same(after["params"]["encoder"], before["encoder"])
    fresh = flat(variables_of(config, NEW, config.seed)["params"]["decoder"])
    old, new = flat(before["decoder"]), flat(after["params"]["decoder"])
    sized = {name for name in new if fresh[name].shape != old[name].shape}
    assert len(sized) == (2 if kind is tied else 3)
    decoder = build.captioner(config, OLD).decoder
    assert sized == decoder.word_axes.keys() & new.keys()
    for name in new.keys() - sized:
        np.testing.assert_array_equal(new[name], old[name], err_msg=name)
    for name in sized:
        axis = decoder.word_axes[name]
        for word in ("<pad>", "<bos>", "<eos>", "<unk>", "a", "red", "wall", "dog", "the"):
            ids = [
                next((i for i in range(t.vocab_size) if t.word(i) == word), None)
                for t in (OLD, NEW)
            ]
            wanted = fresh[name] if ids[0] is None else old[name]
            token = ids[1] if ids[0] is None else ids[0]
            found = np.take(new[name], ids[1], axis), np.take(wanted, token, axis)
            np.testing.assert_array_equal(*found, err_msg=f"{name}: {word}")
    assert record["words"] == {"taken": 7, "fresh": 3}
    assert "starting from step 0 of" in caplog.text
    assert "of 10 words that run has 7; 3 are new: dog, big, the" in caplog.text
    assert not questions.keeps_tokenizer(config)


def test_an_encoder_alone_leaves_the_decoder_to_chance(config, tmp_path, caplog):
    before = make_run(tmp_path, config)["params"]
    config.decoder.width = 12
    after, record = begin(config, tmp_path, NEW, init_parts=("encoder",))
    assert_same(after["params"]["encoder"], before["encoder"])
    chance = variables_of(config, NEW, config.seed)["params"]
    assert_same(after["params"]["decoder"], chance["decoder"])
    # Words of a decoder that is not there matter to nobody.
    assert not questions.keeps_tokenizer(config)
    assert record["taken"] == ["encoder"]
    assert record["fresh"] == ["decoder"]
    sizes = [sum(x.size for x in jax.tree.leaves(chance[part])) for part in ("encoder", "decoder")]
    assert f"encoder ({sizes[0]:,} parameters) taken" in caplog.text
    assert f"randomly initialised: decoder ({sizes[1]:,} parameters)" in caplog.text


def test_a_decoder_alone_keeps_its_words(config, tmp_path):
    before = make_run(tmp_path, config)["params"]
    config.encoder.depth = 2
    after, _ = begin(config, tmp_path, OLD, init_parts=("decoder",))
    assert questions.keeps_tokenizer(config)
    assert_same(after["params"]["decoder"], before["decoder"])
    chance = variables_of(config, OLD, config.seed)["params"]
    assert_same(after["params"]["encoder"], chance["encoder"])


def test_a_frozen_encoder_comes_with_its_run_or_from_its_file(config, tmp_path):
    frozen(config)
    before = make_run(tmp_path, config)
    assert (tmp_path / "frozen.safetensors").exists()
    after, _ = begin(config, tmp_path, NEW, init_parts=("encoder", "adapter"))
    for part in ("encoder", "adapter"):
        assert_same(after["params"][part], before["params"][part])
    other = {"params": jax.tree.map(lambda x: x + 1, before["params"]["encoder"])}
    after, _ = begin(config, tmp_path, OLD, other, init_parts=("decoder",))
    assert_same(after["params"]["encoder"], other["params"])
    assert_same(after["params"]["decoder"], before["params"]["decoder"])


def test_what_does_not_fit_is_named_with_what_would(config, tmp_path):
    make_run(tmp_path, config)
    config.decoder.width = 12
    match = (
        r"does not fit the model: .*params/decoder/bl.* is \[8\] and should be \[12\].*; "
        r"config.init_parts=\('encoder',\) would fit"
    )
    with pytest.raises(WorkdirError, match=match):
        begin(config, tmp_path, OLD)
    config.encoder.width = 12
    with pytest.raises(WorkdirError, match="none of its parts would fit"):
        begin(config, tmp_path, OLD)
    frozen(config)
    with pytest.raises(WorkdirError, match="missing params/adapter"):
        begin(config, tmp_path, OLD, init_parts=("adapter",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_parts": ("head",)}, r"init_parts=\('head',\) must be \('all',\), or some of"),
        ({"init_parts": ()}, r"init_parts=\(\) must be \('all',\), or some of"),
        ({"init_parts": ("all", "encoder")}, r"must be \('all',\), or some of"),
        ({"init_parts": ("adapter",)}, "this config has no adapter"),
        ({"init_parts": ("encoder",), "init_from": ""}, "needs a config.init_from"),
        ({"init_tokenizer": False, "init_parts": ("encoder",)}, "init_parts with 'decoder'"),
        ({"word_vectors.frozen": True, "init_tokenizer": False}, "new words' embeddings random"),
        ({"word_vectors.frozen": True, "init_parts": ("encoder",)}, "needs a config.word_vec"),
        ({"word_vectors.file": "README.md"}, "without 'decoder'"),
    ],
)
def test_parts_that_can_not_be_are_refused(config, fields, message):
    config.init_from = "somewhere"
    config.update_from_flattened_dict(fields)
    with pytest.raises(ConfigError, match=message):
        checks.check(config)


def test_vectors_go_with_an_encoder_that_is_taken(config):
    config.init_from, config.init_parts = "somewhere", ("encoder",)
    config.word_vectors.file = "README.md"
    checks.check(config)


def test_training_keeps_no_second_copy_of_what_it_starts_from(config, tmp_path, monkeypatch):
    write_pictures(tmp_path)
    config.dataset = base.folder_dataset()
    fields = {"dataset.cache_dir": "", "dataset.image_size": 16, "dataset.max_length": 6}
    shorten(config, tmp_path, {**fields, "decoding.max_length": 7})
    kept = []

    def replicate(state, *, donate):
        assert donate
        kept.extend(map(weakref.ref, jax.tree.leaves((state.params, state.opt_state))))
        return jax.tree.map(np.copy, state)

    def loop(*_, **__):
        gc.collect()
        assert kept
        assert not any(leaf() is not None for leaf in kept)
        raise LookupError

    monkeypatch.setattr("capjax.parallel.devices.replicate", replicate)
    monkeypatch.setattr("capjax.run.train.train_loop", loop)
    with pytest.raises(LookupError):
        train(config, str(tmp_path / "run"))


@pytest.mark.slow(reason="what it starts from is tested every day")
def test_a_run_with_other_words_trains_and_goes_on(config, tmp_path, caplog):
    write_pictures(tmp_path)
    config.dataset = base.folder_dataset()
    fields = {"dataset.cache_dir": "", "dataset.image_size": 16, "dataset.max_length": 6}
    fields |= {"num_steps": 2, "eval_every": 2, "decoding.num_beams": 1, "decoding.max_length": 7}
    shorten(config, tmp_path, fields)
    first, second = tmp_path / "first", tmp_path / "second"
    make_run(first, config)
    config.init_from, config.init_tokenizer = str(first), False
    train(config, str(second))
    said = json.loads((second / "start.json").read_text())
    # Red, a and wall, and the special tokens; not picture, green and blue.
    assert said["words"] == {"taken": 7, "fresh": 3}
    assert said["init_from"] == str(first)
    assert said["step"] == 0
    assert capjax.load(second).tokenizer.vocab_size == 10
    # What it began with may have gone.
    first.rename(tmp_path / "gone")
    train(config, str(second))
    assert "trained to its end" in caplog.text
