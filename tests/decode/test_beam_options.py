"""Beam search on several devices, and options that it refuses."""

import os

import pytest

from capjax.decode.beam import beam_search
from capjax.decode.processors import Processors
from tests.helpers.command_line import python

BOS, EOS, PAD = 1, 2, 0

EIGHT = """
import runpy, sys, jax, numpy as np
from capjax.decode.beam import beam_search
decoder = runpy.run_path(sys.argv[1])["ToyDecoder"](11, seed=11, boost=[(2, 1.0)])
def run(carry):
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    return beam_search(decoder.step, carry, num_beams=3, max_length=12, **ids)
assert jax.device_count() == 8
images = np.arange(24)
one = jax.jit(run)(decoder.carry(images, 3))
many = jax.pmap(run)(jax.vmap(lambda i: decoder.carry(i, 3))(images.reshape(8, 3)))
many = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(24, *leaf.shape[2:]), many)
jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, one), many)
print("same", len(np.unique(many.lengths)))
"""


@pytest.mark.slow(reason="tests/train/test_step.py compares captions of eight devices every day")
def test_one_device_is_eight():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    more = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = python("-c", EIGHT, "tests/decode/conftest.py", **more)
    assert (done.returncode, done.stdout[:4]) == (0, "same"), done.stderr
    assert int(done.stdout.split()[1]) > 3  # captions of many lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping": 1}, "early_stopping"),
        ({"max_length": 1}, "max_length"),
        ({"prompt": (3, 4, 5, 6)}, "at least 6"),
        ({"prompt": (3, 9)}, "token 9"),
        ({"prompt": (3, EOS)}, "end token 2"),
        ({"length_normalization": "mean"}, "length_normalization"),
        ({"processors": Processors(min_length=6)}, "min_length=6"),
        ({"num_beams": 3}, "num_beams=3"),
        ({"eos_id": 9}, "eos_id=9"),
        ({"return_attention": True}, "attention=True"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_options_without_meaning_are_refused(toy, options, message):
    decoder = toy(9)
    options = {"num_beams": 2, "eos_id": EOS, "max_length": 5, **options}
    with pytest.raises(ValueError, match=message):
        beam_search(decoder.step, decoder.carry([0], 2), bos_id=BOS, pad_id=PAD, **options)
