"""What a run holds in memory while it trains."""

import gc
import importlib
import weakref

import jax
import jax.numpy as jnp
import pytest

from capjax.train.signals import Interrupted
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
