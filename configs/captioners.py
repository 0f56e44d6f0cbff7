"""Configs that start from a captioner of transformers, and the decoder sections of its kinds."""

from ml_collections import ConfigDict

from configs.gpt2 import gpt2_decoder
from configs.pretrained_encoders import vit


def blip_decoder() -> ConfigDict:
    """BLIP's decoder (`capjax.models.decoders.blip`)."""
    decoder = ConfigDict()
    decoder.name = "blip"
    # Number of positions, the longest caption in tokens; at least dataset.max_length.
    decoder.max_length = 512
    # Width of the token embeddings and residuals.
    decoder.width = 768
    # Decoder blocks.
    decoder.num_layers = 12
    # Attention heads per block.
    decoder.num_heads = 12
    # Ratio of a feed-forward block's inner width to the width.
    decoder.mlp_ratio = 4.0
    # Activation of the feed-forward blocks and before the output: a function of flax.linen, or
    # "gelu_exact".
    decoder.activation = "gelu_exact"
    # Epsilon of the norms.
    decoder.epsilon = 1e-12
    # Dropout rate on embeddings and residuals.
    decoder.dropout = 0.0
    # Dropout rate on attention weights.
    decoder.attention_dropout = 0.0
    return decoder


def git_decoder() -> ConfigDict:
    """GIT's decoder (`capjax.models.decoders.git`)."""
    decoder = blip_decoder()
    decoder.name = "git"
    decoder.max_length = 1024
    decoder.num_layers = 6
    decoder.dropout = 0.1
    decoder.attention_dropout = 0.1
    # Epsilon of the norm after the projection of the image's positions.
    decoder.projection_epsilon = 1e-5
    return decoder


_DECODERS = {"gpt2": gpt2_decoder, "blip": blip_decoder, "git": git_decoder}


def _decoder(name: str) -> ConfigDict:
    """The section of a decoder; of a user's own, the fields that `use_captioner` adds alone."""
    return _DECODERS[name]() if name in _DECODERS else ConfigDict({"name": name})


def use_captioner(config: ConfigDict, source: str) -> None:
    """Sets a config to start from a captioner of transformers.

    Args:
      config: its encoder, decoder, adapter, decoding and image fields become the captioner's, and
        its label smoothing where the captioner's files say one.
      source: its folder, or its name on huggingface.co, for example "ydshieh/vit-gpt2-coco-en" or
        "Salesforce/blip-image-captioning-base".

    Raises:
      WeightsError, which is a ValueError: there is no such captioner.
    """
    # Imported here, because it needs JAX and configs import without it.
    from capjax.pretrained.captioners.read import read_captioner

    captioner = read_captioner(source, weights=False)
    sections = captioner.sections()
    config.encoder, config.decoder = vit(), _decoder(sections["decoder"]["name"])
    if "adapter" in sections:
        config.adapter = ConfigDict()
    for section, fields in sections.items():
        config[section].update(fields)
    if captioner.fields.label_smoothing is not None:
        config.label_smoothing = captioner.fields.label_smoothing
    config.encoder.weights = config.init_from = source
