"""GPT-2 (Radford et al. 2019) as a caption decoder: with attention to the image in each block."""

from capjax.models.decoders.transformer import TransformerDecoder


class GPT2Decoder(TransformerDecoder):
    """`TransformerDecoder` with GPT-2's fields; as they stand, those of its smallest.

    Medium, large and XL have a `width` of 1024, 1280 and 1600, `num_layers` of 24, 36 and 48, and
    `num_heads` of 16, 20 and 25. The attention to the image follows the self-attention, with a
    norm of its own, as in transformers' `GPT2LMHeadModel` with `add_cross_attention`. "gelu" is the
    approximation by tanh, which GPT-2 has. Fresh kernels follow section 2.3: those that end a
    residual branch are scaled by 1 / sqrt(N), N counting two branches a block.
    """

    vocab_size: int = 50257
    max_length: int = 1024
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    tie_embeddings: bool = True
    epsilon: float = 1e-5
    use_output_bias: bool = False
    kernel_std: float = 0.02
