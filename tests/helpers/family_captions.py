"""The captions of BLIPs and GITs beside those of transformers.

Importing it needs torch and transformers.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from capjax.evaluate.captioning import make_decode
from capjax.evaluate.control import Control
from capjax.evaluate.methods import BeamSearch
from capjax.pretrained.captioners.captioner import family_of
from capjax.pretrained.captioners.read import read_variables
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.vit.read import vit_fields
from tests.helpers import transformers_blips
from tests.helpers.transformers_captioners import QUICK, generated


def read_back(kind, model, folder):
    """Our module, its variables and its special ids, through a folder, whose weights go again."""
    kind.save_folder(model, folder)
    config = read_json(folder / "config.json")
    family = family_of(config, str(folder))
    fields = family.read_fields(config, str(folder))
    module = family.module(vit_fields(folder), fields, fields.decoder, jnp.float32)
    variables = read_variables(folder)
    (folder / "model.safetensors").unlink()
    section = config.get("text_config", config)
    start, end = section["bos_token_id"], section.get("sep_token_id") or section["eos_token_id"]
    ids = {"bos_id": start, "eos_id": end, "pad_id": 0, "banned_ids": ()}
    return module, variables, types.SimpleNamespace(**ids, vocab_size=section["vocab_size"])


def theirs(kind, model, images, ids, *, prompt=(), **settings):
    """(tokens [B, T] after start and prompt, scores [B], or None of one beam) of `generate`."""
    if prompt:
        # Of BLIP's the first becomes its start, and the last is dropped.
        around = (
            ((ids.bos_id,), (ids.eos_id,)) if kind is transformers_blips else ((ids.bos_id,), ())
        )
        row = [*around[0], *prompt, *around[1]]
        settings["input_ids"] = torch.tensor([row] * len(images))
    if settings["num_beams"] == 1:
        settings = {
            n: v for n, v in settings.items() if n not in ("length_penalty", "early_stopping")
        }
    sequences, scores = generated(model, images, **settings)
    return sequences[:, 1 + len(prompt) :], scores


@functools.cache
def _encode(module):
    return jax.jit(
        lambda variables, images: module.apply(variables, images, method="encode"),
        compiler_options=QUICK,
    )


def ours(pair, memory, *, prompt=(), **settings):
    """The leaves of `Found` of the best captions of a memory, with an axis of images."""
    module, variables, ids = pair
    beams = ("num_beams", "length_penalty", "early_stopping", "max_length")
    control = {name: value for name, value in settings.items() if name not in beams}
    control = Control(prompt="".join(f"<{token}>" for token in prompt), **control)
    method = BeamSearch(**{name: settings[name] for name in beams}, control=control)
    decode = make_decode(module, ids, method, attention=False)

    @jax.jit(compiler_options=QUICK)
    def caption(variables, memory):
        return decode(variables, memory, np.arange(memory.values.shape[0]))

    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], caption(variables, memory))


def compare(kind, model, pair, images, settings, *, ended=0.3):
    """Asserts that both give the same captions by each setting; gives their tokens [B, T].

    They are 0 after the end. At least the share `ended` must end before the length limit.
    """
    module, variables, _ = pair
    memory = _encode(module)(variables, images)
    return [_compare(kind, model, pair, images, memory, each, ended) for each in settings]


def _compare(kind, model, pair, images, memory, setting, ended):
    # Of beams, one image in a hundred may have another caption of the same score, as rounded.
    expected, scores = theirs(kind, model, images, pair[2], **setting)
    found = ours(pair, memory, **setting)
    # Theirs fill a caption of beams by its end, and one of greedy search by pads.
    steps = found.tokens.shape[1]
    expected = np.pad(expected, ((0, 0), (0, steps - expected.shape[1])))
    inside = np.arange(steps) < found.lengths[:, None]
    tokens, expected = (np.where(inside, tokens, 0) for tokens in (found.tokens, expected))
    differ = (tokens != expected).any(axis=1)
    if scores is None:
        assert not differ.any()
    else:
        np.testing.assert_allclose(found.scores, scores, rtol=1e-4, atol=1e-5)
        assert differ.mean() <= 0.01
    early = found.finished & (found.lengths < steps)
    assert early.mean() >= ended, early.mean()
    return tokens


def see_once(vision):
    """Has a vision model of torch see each image once, as often as `generate` may ask for it."""
    forward, seen = vision.forward, {}

    def look(pixel_values, **options):
        keys = [image.numpy().tobytes() for image in pixel_values]
        for key, image in zip(keys, pixel_values, strict=True):
            if key not in seen:
                seen[key] = forward(pixel_values=image[None], **options).last_hidden_state
        states = torch.cat([seen[key] for key in keys])
        return BaseModelOutputWithPooling(last_hidden_state=states)

    vision.forward = look
