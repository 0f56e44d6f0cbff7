"""What a run holds in memory while it trains."""

import gc
import importlib
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.parallel import devices
from capjax.train.objectives.cross_entropy import CrossEntropy
from capjax.train.signals import Interrupted
from capjax.train.state import init_state
from capjax.train.step import make_train_step
from configs import base
from tests.helpers.small_pictures import write_pictures
from tests.helpers.tiny_run import shorten

# `capjax.run.train` is also the name of its function.
run_train = importlib.import_module("capjax.run.train")


def test_the_state_that_was_begun_with_is_let_go(tmp_path, monkeypatch):
    write_pictures(tmp_path)
    config = base.get_config()
    config.dataset = base.folder_dataset()
    shorten(config, tmp_path, {"dataset.cache_dir": "", "dataset.image_size": 16})
    config.encoder.update(width=8, depth=1, num_heads=2, patch_size=8)
    config.decoder.update(width=8, num_layers=1, num_heads=2)
    begun = []

    def begin(*args, **options):
        state = real_begin(*args, **options)
        begun.extend(weakref.ref(leaf) for leaf in jax.tree.leaves(state) if leaf.ndim)
        return state

    def loop(state, *_, **__):
        # On CPUs the placed state may share the memory of the first one.
        jax.tree.map(lambda leaf: leaf.delete(), state)
        gc.collect()
        assert begun
        assert not [leaf for leaf in begun if leaf() is not None]
        raise Interrupted("nothing is trained")

    real_begin = run_train.init_state

    def start(config, model, shapes, **_):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), {}

    monkeypatch.setattr(run_train, "start_variables", start)  # Nothing is compiled.
    monkeypatch.setattr(run_train, "init_state", begin)
    monkeypatch.setattr(run_train, "train_loop", loop)
    with pytest.raises(SystemExit):
        run_train.train(config, str(tmp_path / "run"))


def test_a_step_needs_the_gradients_beside_the_state():
    model = Captioner(FeatureEncoder((1, 1)), TransformerDecoder(999, 4, 128, 2, 2))
    params = model.init_variables(jax.random.key(0), (1, 4))["params"]
    optimizer = optax.adamw(1e-3)
    state = devices.replicate(init_state(params, optimizer, ema=True), donate=True)
    batch = {
        "features": np.zeros((1, 1, 1, 4), np.float32),
        "tokens": np.ones((1, 1, 1, 5), np.int32),
        "lengths": np.full((1, 1, 1), 4, np.int32),
    }
    step = make_train_step(model, optimizer, seed=0, objective=CrossEntropy(), ema_decay=0.9)
    compiled = devices.map_devices(step, donate=(0,)).lower(state, batch).compile()
    needs = compiled.memory_analysis()
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert needs.alias_size_in_bytes > 4 * gradients
    # Copies of the state would be four times as large.
    assert needs.temp_size_in_bytes < 1.6 * gradients


def test_a_device_takes_over_what_it_has_and_copies_the_rest():
    ours, theirs = jnp.arange(1024.0), np.arange(1024.0)
    place = ours.unsafe_buffer_pointer()
    moved, copied = devices.replicate((ours, theirs), donate=True)
    assert ours.is_deleted()
    assert moved.unsafe_buffer_pointer() == place
    copied.delete()
    for leaf in (devices.unreplicate(moved), theirs):
        np.testing.assert_array_equal(leaf, np.arange(1024))
