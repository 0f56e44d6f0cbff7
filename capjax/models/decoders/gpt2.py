"""GPT-2 (Radford et al. 2019) as a caption decoder: with attention to the image in each block."""

from capjax.models.contract import PretrainedDecoderFields
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.parts.types import Count, Depth, Given, Length, NotNegative


class GPT2Decoder(TransformerDecoder):
    """`TransformerDecoder` with GPT-2's fields; as they stand, those of its smallest.

    Medium, large and XL have a `width` of 1024, 1280 and 1600, `num_layers` of 24, 36 and 48, and
    `num_heads` of 16, 20 and 25. The attention to the image follows the self-attention, with a
    norm of its own, as in transformers' `GPT2LMHeadModel` with `add_cross_attention`. "gelu" is the
    approximation by tanh, which GPT-2 has. Fresh kernels follow section 2.3: those that end a
    residual branch are scaled by 1 / sqrt(N), N counting two branches a block.
    """

    vocab_size: Given[int] = 50257
    max_length: Length = 1024
    width: Count = 768
    num_layers: Depth = 12
    num_heads: Count = 12
    tie_embeddings: Given[bool] = True
    epsilon: NotNegative = 1e-5
    use_output_bias: Given[bool] = False
    kernel_std: Given[float] = 0.02

    training = PretrainedDecoderFields

    @property
    def unpublished(self) -> tuple[str, ...]:
        """The attention to the image, which a GPT-2 does not have; see `Decoder`."""
        blocks = range(self.num_layers)
        return tuple(
            f"blocks_{i}/{part}" for i in blocks for part in ("cross_attention", "norms_1")
        )


PART = GPT2Decoder
