"""GPT-2 as a decoder."""

from ml_collections import ConfigDict


def gpt2_decoder() -> ConfigDict:
    """GPT-2 with attention to the image (`capjax.models.gpt2_decoder`)."""
    decoder = ConfigDict()
    decoder.name = "gpt2"
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
