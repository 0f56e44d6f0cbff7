"""The captions of BLIPs and GITs beside those of transformers.

Importing it needs torch and transformers.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import torch

from capjax.evaluate.captioning import make_decode
from capjax.evaluate.control import Control
from capjax.evaluate.methods import BeamSearch
from capjax.pretrained.captioners.captioner import family_of
from capjax.pretrained.captioners.read import read_variables
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.vit.read import vit_fields
from tests.helpers import transformers_blips
from tests.helpers.transformers_captioners import generated


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


def ours(module, variables, images, ids, *, prompt=(), compiler_options=None, **settings):
    """The leaves of `Found` of the best captions, with an axis of images."""
    beams = ("num_beams", "length_penalty", "early_stopping", "max_length")
    control = {name: value for name, value in settings.items() if name not in beams}
    control = Control(prompt="".join(f"<{token}>" for token in prompt), **control)
    method = BeamSearch(**{name: settings[name] for name in beams}, control=control)
    decode = make_decode(module, ids, method, attention=False)

    @jax.jit(compiler_options=compiler_options)
    def caption(variables, images):
        memory = module.apply(variables, images, method="encode")
        return decode(variables, memory, np.arange(len(images)))

    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], caption(variables, images))


def raise_end(kind, model, images, ids, setting, means):
    """Raises the end token by the first of the means with which captions end early, and differ.

    False if there is none, as with a model that says few captions.
    """
    for mean in means:
        kind.raise_end(model, mean, kind.RAISED[1])
        tokens, _ = theirs(kind, model, images, ids, **setting)
        ended = (tokens[:, :-1] == ids.eos_id).any(axis=1)
        if ended.mean() >= 0.4 and len(np.unique(tokens, axis=0)) >= 5:
            return True
    return False


def compare(kind, model, pair, images, setting, compiler_options=None, *, ended=0.3):
    """Asserts that both give the same captions; their tokens [B, T] with 0 after the end.

    At least the share `ended` must end before the length limit.

    Of beams, one image in a hundred may have another caption of the same score, as rounded.
    """
    module, variables, ids = pair
    expected, scores = theirs(kind, model, images, ids, **setting)
    found = ours(module, variables, images, ids, **setting, compiler_options=compiler_options)
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
