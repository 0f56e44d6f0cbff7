import dataclasses
import gc
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from capjax.parallel import devices, programs


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "kept_in", lambda: str(tmp_path))
    return tmp_path


class Start:
    """A process that maps a function, and counts how often it traces it."""

    def __init__(self, made_from, operation=jnp.sin):
        self.traced = 0

        def function(weights, image):
            self.traced += 1
            return {"value": operation(weights["scale"] * image), "none": None}

        self._mapped = programs.map_local(function, made_from)

    def __call__(self, width=3):
        given = {"scale": np.float32(2)}, np.arange(width * width, dtype=np.float32)
        image = devices.replicate(given[1].reshape(width, width))
        return self._mapped(devices.replicate(given[0]), image)


def test_a_kept_program_is_not_traced_again_and_gives_the_same_bits():
    first, second = Start(("a", 1)), Start(("a", 1))
    bits = [devices.unreplicate(start())["value"].tobytes() for start in (first, second, second)]
    assert len({*bits}) == 1
    assert (first.traced, second.traced) == (1, 0)
    assert second()["none"] is None


def test_a_program_of_something_else_is_traced(monkeypatch):
    Start(("a", 1))()
    for made_from in (("a", 2), ("a", 1.0)):
        other = Start(made_from)
        other()
        assert other.traced == 1
    wider = Start(("a", 1))
    wider(width=4)
    assert wider.traced == 1
    monkeypatch.setattr(programs, "_code", lambda: "another version")
    edited = Start(("a", 1))
    edited()
    assert edited.traced == 1


def test_a_damaged_program_is_traced_again(folder):
    Start("a")()
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    for traced in (1, 0):
        again = Start("a")
        again()
        assert again.traced == traced


@dataclasses.dataclass
class Own:
    """A part of a user, whose code is not in a program's name."""


def test_programs_of_own_parts_are_not_kept(folder):
    Start(("a", Own()))()
    assert not [*folder.iterdir()]


def test_what_a_server_compiles_for_its_clients_is_not_kept(folder):
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    try:
        Start("a")()
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert not [*folder.iterdir()]


def test_a_folder_that_cannot_be_written_is_as_none(folder, monkeypatch):
    monkeypatch.setattr(programs, "kept_in", lambda: os.devnull)
    Start("a")()


def test_a_kept_program_can_use_lapack():
    def operation(x):
        return jnp.linalg.eigh(x @ x.T)[0]

    first, second = Start("a", operation), Start("a", operation)
    np.testing.assert_array_equal(first()["value"], second()["value"])
    assert second.traced == 0


def test_shapes_are_those_of_eval_shape_and_kept():
    def make():
        return {"params": {"a": jnp.zeros((2, 3), jnp.bfloat16), "b": {"c": jnp.zeros(())}}}

    assert programs.shapes_of(make, "a") == jax.eval_shape(make)
    assert programs.shapes_of(lambda: pytest.fail("traced"), "a") == jax.eval_shape(make)


class Steps:
    """A process that trains: its state has a node that JAX can't write, and the devices differ."""

    def __init__(self, made_from="a"):
        self.traced = 0

        def step(state, batch):
            self.traced += 1
            total = devices.psum((state["weights"] * batch["x"]).sum())
            moved = state["weights"] + total + devices.device_index()
            optimizer = optax.TraceState(state["optimizer"].trace + 1)
            after = {"weights": moved, "optimizer": optimizer, "none": None}
            return after, {"total": total}

        self._step = programs.map_step(step, made_from)

    def __call__(self, count=2):
        weights = jnp.arange(3, dtype=jnp.float32)
        state = {"weights": weights, "optimizer": optax.TraceState(jnp.zeros(())), "none": None}
        self.first = state = devices.replicate(state)
        rows = np.arange(3.0 * jax.local_device_count(), dtype=np.float32)
        for _ in range(count):
            state, metrics = self._step(state, devices.shard({"x": rows}))
        return jax.tree.map(np.asarray, (state, metrics))


def test_a_kept_step_is_not_traced_again_and_makes_the_same_updates(monkeypatch):
    first, second = Steps(), Steps()
    jax.tree.map(np.testing.assert_array_equal, first(), second())
    assert (first.traced, second.traced) == (1, 0)
    other = Steps("b")
    other()
    assert other.traced == 1
    monkeypatch.setattr(programs, "kept_in", lambda: "")
    alone = Steps()
    jax.tree.map(np.testing.assert_array_equal, alone(), second())
    assert alone.traced == 1


def test_a_kept_step_is_given_its_states_buffers():
    for start in (Steps(), Steps()):
        start(count=1)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start.first))


def test_a_kept_function_of_one_device_gives_the_same_bits():
    def draw(key):
        return {"a": {"b": jax.random.normal(key, (3,))}}

    key = jax.random.key(1)
    expected = draw(key)["a"]["b"]
    for function in (draw, lambda key: pytest.fail("traced")):
        found = programs.run(function, "a", key)["a"]["b"]
        np.testing.assert_array_equal(found, expected)


def test_a_kept_text_is_not_made_again():
    assert programs.text_of(lambda: "größe", "a") == "größe"
    assert programs.text_of(lambda: pytest.fail("made"), "a") == "größe"
    assert programs.text_of(lambda: "other", "b") == "other"


def test_what_was_compiled_is_freed():
    client = jax.devices()[0].client
    double = devices.map_local(lambda x: 2.3456 * x)
    np.testing.assert_allclose(devices.unshard(double(devices.shard(np.ones(8)))), 2.3456, 1e-6)
    before = len(client.live_executables())
    del double
    gc.collect()
    assert len(client.live_executables()) < before
