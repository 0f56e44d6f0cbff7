"""Small BLIPs of transformers with random weights: the tests' reference.

Importing it needs torch and transformers.
"""

import json

import numpy as np
import torch
import transformers

from tests.helpers.small_wordpiece import VOCABULARY
from tests.helpers.transformers_captioners import MEAN, STD, draw_full, pixels, raise_row
from tests.helpers.transformers_vits import BASE, save

# Two rows more than words, of which the first starts a caption; as published, the eos_token_id
# is not what ends one.
CLASS = transformers.BlipForConditionalGeneration
START, END, ROWS = len(VOCABULARY), 3, len(VOCABULARY) + 2
# How the end token is raised, so that many captions end and few at once.
RAISED = (3.0, 3.0)
RAISED_FULL = (8.0, 4.0)
# The vision model, and of our decoder, names of torch's.
VISION = "vision_model"
WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"
LAYER = "text_decoder.bert.encoder.layer.1.output.dense.weight"
KEY = "text_decoder.bert.encoder.layer.1.crossattention.self.key.weight"
TEXT = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "bos_token_id": START,
    "sep_token_id": END,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make(seed=0, *, end=(0.0, 0.0), depth=2, **fields):
    """A captioner whose parameters are all random; `end` as of `transformers_captioners.make`."""
    layers = {"num_hidden_layers": depth}
    text, vision = {**TEXT, **layers, **fields}, {**BASE, **layers}
    config = transformers.BlipConfig(vision_config=vision, text_config=text)
    model = transformers.BlipForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    text = model.text_decoder
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        # Otherwise all pictures would have one caption of few words, and a search no choices.
        for name, parameter in text.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter += 1
        for layer in text.bert.encoder.layer:
            layer.crossattention.self.query.weight.mul_(4)
            layer.crossattention.output.dense.weight.mul_(4)
    raise_end(model, *end)
    return model


def make_full(seed=0):
    """BLIP base with random parameters, whose captions differ and end at many lengths."""
    config = transformers.BlipConfig(text_config={"num_attention_heads": 12})
    model = draw_full(transformers.BlipForConditionalGeneration, config, seed)
    text = model.text_decoder
    with torch.no_grad():
        text.bert.embeddings.word_embeddings.weight.mul_(2.5)
        text.bert.embeddings.position_embeddings.weight.mul_(6)
        for layer in text.bert.encoder.layer:
            layer.crossattention.self.query.weight.mul_(4)
    raise_end(model, *RAISED_FULL, config.text_config.sep_token_id)
    return model


def raise_end(model, mean, spread, end=END):
    """Gives the end token a row and a bias that make its logit about N(mean, spread)."""
    text = model.text_decoder
    head = text.cls.predictions
    words = text.bert.embeddings.word_embeddings.weight
    raise_row(head.transform.LayerNorm, head, words, end, mean, spread)


def save_folder(model, folder):
    """Writes config, weights and how pixels are wanted."""
    save(model, folder)
    about = {"image_processor_type": "BlipImageProcessor", "resample": 3}
    about |= {"image_mean": MEAN, "image_std": STD, "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))


def logits(model, images, tokens):
    """[B, T, V], by NumPy."""
    with torch.no_grad():
        found = model(pixel_values=pixels(images), input_ids=torch.from_numpy(tokens))
    return np.asarray(found.logits)
