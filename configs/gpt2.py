"""GPT-2 as a decoder, alone or of a captioner of transformers."""

from ml_collections import ConfigDict

from capjax.pretrained.captioners.projection import PROJECTION
from configs.pretrained_encoders import vit


def gpt2_decoder() -> ConfigDict:
    """GPT-2 with attention to the image (`capjax.models.decoders.gpt2`)."""
    decoder = ConfigDict()
    decoder.name = "gpt2"
    # A GPT-2 that it and the tokenizer start from: a folder, or a name on huggingface.co such as
    # "openai-community/gpt2"; what attends to the image starts fresh. "" starts all fresh, and the
    # words are those of the data.
    decoder.weights = ""
    # Whether GPT-2's own layers stay as they are, and what attends to the image alone trains.
    decoder.frozen = False
    # Longest caption that it has positions for, in tokens; at least dataset.max_length.
    decoder.max_length = 1024
    # Width of the token embeddings and residuals: 768, 1024, 1280, 1600 for small to XL.
    decoder.width = 768
    # Decoder blocks: 12, 24, 36, 48.
    decoder.num_layers = 12
    # Attention heads a block: 12, 16, 20, 25.
    decoder.num_heads = 12
    # Inner width of a feed-forward block over the width.
    decoder.mlp_ratio = 4.0
    # Activation of the feed-forward blocks: a function of flax.linen, whose "gelu" is by tanh.
    decoder.activation = "gelu"
    # Of the norms.
    decoder.epsilon = 1e-5
    # Dropout rate on embeddings and residuals.
    decoder.dropout = 0.1
    # Dropout rate on attention weights.
    decoder.attention_dropout = 0.1
    return decoder


def projection(width: int) -> ConfigDict:
    """The adapter of transformers: a dense layer to `width`, and nothing else."""
    return ConfigDict({"width": width, **PROJECTION})


def use_gpt2(config: ConfigDict, source: str) -> None:
    """Gives a config the decoder of a GPT-2, with its weights and its tokenizer.

    Args:
      config: has its encoder; where that is of another width, a dense layer comes between.
      source: see `decoder.weights`; its config.json is read.

    Raises:
      WeightsError, which is a ValueError: there is no such GPT-2.
    """
    # Configs import without JAX, which reads weights.
    from capjax.pretrained.captioners.gpt2 import gpt2_fields

    config.decoder = gpt2_decoder()
    fields = gpt2_fields(source)
    config.decoder.update({name: fields[name] for name in fields.keys() - {"vocab_size"}})
    config.decoder.weights = source
    if config.encoder.width != config.decoder.width:
        config.adapter = projection(config.decoder.width)


def use_captioner(config: ConfigDict, source: str) -> None:
    """Has a config start from a captioner of transformers, a ViT with a GPT-2.

    Args:
      config: encoder, decoder, adapter, decoding and the fields of the pixels become the
        captioner's.
      source: its folder, or its name on huggingface.co, such as "ydshieh/vit-gpt2-coco-en".

    Raises:
      WeightsError, which is a ValueError: there is no such captioner.
    """
    from capjax.pretrained.captioners.encoder_decoder import read_captioner

    captioner = read_captioner(source, weights=False)
    config.encoder, config.decoder = vit(), gpt2_decoder()
    if captioner.projection:
        config.adapter = projection(captioner.decoder["width"])
    for section, fields in captioner.sections().items():
        config[section].update(fields)
    config.encoder.weights = config.init_from = source
