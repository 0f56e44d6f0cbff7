"""Small GITs of transformers with random weights: the tests' reference.

Importing it needs torch and transformers.
"""

import json

import numpy as np
import torch
import transformers

from tests.helpers.small_wordpiece import VOCABULARY
from tests.helpers.transformers_captioners import MEAN, STD, draw_full, pixels, raise_row
from tests.helpers.transformers_vits import BASE, save

CLASS = transformers.GitForCausalLM
START, END, ROWS = 2, 3, len(VOCABULARY)
# How the end token is raised, so that many captions end and few at once.
RAISED = (0.0, 3.0)
RAISED_FULL = (8.0, 4.0)
# The vision model, and of our decoder, names of torch's.
VISION = "git.image_encoder"
WORDS = "git.embeddings.word_embeddings.weight"
LAYER = "git.encoder.layer.1.output.dense.weight"
KEY = "git.visual_projection.visual_projection.0.weight"
TEXT = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "bos_token_id": START,
    "eos_token_id": END,
    "pad_token_id": 0,
}


def make(seed=0, *, end=(0.0, 0.0), depth=2, **fields):
    """A captioner whose parameters are all random; `end` as of `transformers_captioners.make`."""
    layers = {"num_hidden_layers": depth}
    config = transformers.GitConfig(
        vision_config={**BASE, **layers}, **{**TEXT, **layers, **fields}
    )
    model = transformers.GitForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        # Otherwise all pictures would have one caption of few words, and a search no choices.
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter += 1
        model.git.visual_projection.visual_projection[1].weight.mul_(8)
        for layer in model.git.encoder.layer:
            layer.attention.self.query.weight.mul_(8)
            layer.attention.output.dense.weight.mul_(8)
    raise_end(model, *end)
    return model


def make_full(seed=0):
    """GIT base with random parameters, whose captions differ and end at many lengths."""
    model = draw_full(transformers.GitForCausalLM, transformers.GitConfig(), seed)
    with torch.no_grad():
        model.output.weight.mul_(2.5)
        model.git.embeddings.word_embeddings.weight.mul_(2.5)
        model.git.embeddings.position_embeddings.weight.mul_(6)
        for layer in model.git.encoder.layer:
            layer.attention.self.query.weight.mul_(4)
    raise_end(model, *RAISED_FULL, model.config.eos_token_id)
    return model


def raise_end(model, mean, spread, end=END):
    """Gives the end token a row and a bias that make its logit about N(mean, spread)."""
    last = model.git.encoder.layer[-1].output.LayerNorm
    raise_row(last, model.output, model.output.weight, end, mean, spread)


def save_folder(model, folder):
    """Writes config, weights and how pixels are wanted."""
    save(model, folder)
    about = {"image_processor_type": "CLIPImageProcessor", "resample": 3}
    about |= {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 16}}
    about |= {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))


def logits(model, images, tokens):
    """[B, T, V], by NumPy, of whole forwards: behind the image's positions."""
    with torch.no_grad():
        found = model(pixel_values=pixels(images), input_ids=torch.from_numpy(tokens))
    return np.asarray(found.logits)[:, -tokens.shape[1] :]
