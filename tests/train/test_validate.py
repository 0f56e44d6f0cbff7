"""The teacher-forced loss of a split, read once on its way to the captions."""

import jax
import numpy as np
import pytest

from capjax.data.captions import CaptionTable
from capjax.evaluate.captioning import Caption
from capjax.models.captioner import Captioner, FeatureEncoder
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.parallel import devices
from capjax.train import validate
from capjax.train.step import make_loss_step
from capjax.train.validate import TeacherForced, fill_batch, samples_table

MODEL = Captioner(FeatureEncoder((2, 2)), TransformerDecoder(9, 5, 8, 1, 2, banned=(0, 1, 3)))


def batches(sizes, rng, captions=2):
    for size in sizes:
        lengths = rng.integers(0, 6, (size, captions)).astype(np.int32)
        yield {
            "features": rng.normal(size=(size, 4, 6)).astype(np.float32),
            "tokens": rng.integers(4, 9, (size, captions, 6)).astype(np.int32),
            "lengths": lengths,
            "index": np.arange(size, dtype=np.int32),
        }


def test_the_loss_is_a_mean_over_all_tokens_however_they_are_batched():
    variables = devices.replicate(MODEL.init_variables(jax.random.key(0), (4, 6)))
    step = devices.map_devices(make_loss_step(MODEL))
    whole = list(batches([6], np.random.default_rng(0)))
    parts = [
        {name: value[rows] for name, value in whole[0].items()} for rows in ([0, 1, 2, 3], [4, 5])
    ]

    def measure(several):
        forced = TeacherForced(step, variables)
        passed = list(forced.watch(several))
        assert [batch["index"].tolist() for batch in passed] == [
            batch["index"].tolist() for batch in several
        ]
        return forced.metrics()

    assert measure(whole).keys() == {"loss", "accuracy"}
    np.testing.assert_allclose(measure(parts)["loss"], measure(whole)["loss"], rtol=1e-5)
    assert abs(measure(whole)["loss"] - np.log(6)) < 0.5
    assert measure([]) == {}


def test_an_image_of_many_captions_takes_no_more_memory(monkeypatch):
    variables = devices.replicate(MODEL.init_variables(jax.random.key(0), (4, 6)))
    step = devices.map_devices(make_loss_step(MODEL))
    (batch,) = batches([8], np.random.default_rng(1), captions=19)
    batch["lengths"][:, 17:] = 0
    shapes = []

    def measure():
        def loss_step(variables, part):
            shapes.append(part["tokens"].shape[-2:])
            return step(variables, part)

        forced = TeacherForced(loss_step, variables)
        list(forced.watch([batch]))
        return forced.metrics()

    parts = measure()
    assert shapes == [(8, 6)] * 3
    monkeypatch.setattr(validate, "_CAPTIONS", 19)
    assert parts == pytest.approx(measure(), rel=1e-6)
    assert shapes[3:] == [(19, 6)]


def test_samples_fill_a_batch_and_tell_their_references():
    batch = fill_batch({"image": np.zeros((3, 4, 4, 3), np.uint8)})
    assert (batch["index"] >= 0).sum() == 3
    assert len(batch["index"]) % jax.local_device_count() == 0
    table = CaptionTable(("a", "b"), (("a cat",), ()), "")
    said = Caption("a dog", 0.0, 0.0, True, ("a", "dog"))
    text = samples_table([(0, "greedy", said), (1, "greedy", said)], table)
    assert "| a | greedy | a dog |\n| a | reference | a cat |\n| b | greedy | a dog |" in text
