"""The GPT-2 decoder section, alone or as part of a captioner of transformers."""

from ml_collections import ConfigDict

from capjax.pretrained.captioners.projection import PROJECTION


def gpt2_decoder() -> ConfigDict:
    """GPT-2 with attention to the image (`capjax.models.decoders.gpt2`)."""
    decoder = ConfigDict()
    decoder.name = "gpt2"
    # Pretrained GPT-2 of the decoder and the tokenizer: a folder, or a name on huggingface.co, for
    # example "openai-community/gpt2"; its cross-attention is initialised randomly. "" initialises
    # everything randomly and takes the dataset's vocabulary.
    decoder.weights = ""
    # Whether GPT-2's own layers are frozen, so that only the cross-attention trains.
    decoder.frozen = False
    # Number of positions, the longest caption in tokens; at least dataset.max_length.
    decoder.max_length = 1024
    # Width of the token embeddings and residuals: 768, 1024, 1280, 1600 for small to XL.
    decoder.width = 768
    # Decoder blocks: 12, 24, 36, 48.
    decoder.num_layers = 12
    # Attention heads per block: 12, 16, 20, 25.
    decoder.num_heads = 12
    # Ratio of a feed-forward block's inner width to the width.
    decoder.mlp_ratio = 4.0
    # Activation of the feed-forward blocks: a function of flax.linen, whose "gelu" is by tanh.
    decoder.activation = "gelu"
    # Epsilon of the norms.
    decoder.epsilon = 1e-5
    # Dropout rate on embeddings and residuals.
    decoder.dropout = 0.1
    # Dropout rate on attention weights.
    decoder.attention_dropout = 0.1
    return decoder


def projection(width: int) -> ConfigDict:
    """The adapter of transformers' VisionEncoderDecoder: a dense layer to `width`."""
    return ConfigDict({"width": width, **PROJECTION})


def use_gpt2(config: ConfigDict, source: str) -> None:
    """Sets the decoder of a config to a pretrained GPT-2, with its tokenizer.

    Args:
      config: must have its encoder; if the widths differ, a dense layer is added as the adapter.
      source: see `decoder.weights`; its config.json is read.

    Raises:
      WeightsError, which is a ValueError: there is no such GPT-2.
    """
    # Imported here, because it needs JAX and configs import without it.
    from capjax.pretrained.captioners.gpt2 import gpt2_fields

    config.decoder = gpt2_decoder()
    fields = gpt2_fields(source)
    config.decoder.update({name: fields[name] for name in fields.keys() - {"vocab_size"}})
    config.decoder.weights = source
    if config.encoder.width != config.decoder.width:
        config.adapter = projection(config.decoder.width)
