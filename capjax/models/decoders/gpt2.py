"""GPT-2 (Radford et al. 2019) as a caption decoder, with cross-attention in each block."""

from flax import linen as nn

from capjax.models.contract import PretrainedDecoderFields
from capjax.models.decoders.transformer import TransformerDecoder
from capjax.models.layers import check_heads
from capjax.parts.types import Count, Depth, Given, Length, NotNegative, Width


class GPT2Decoder(TransformerDecoder):
    """`TransformerDecoder` with the fields of GPT-2 small as defaults.

    Medium, large and XL have `width` 1024, 1280 and 1600, `num_layers` 24, 36 and 48, and
    `num_heads` 16, 20 and 25. Cross-attention follows self-attention, with its own norm, as in
    transformers' `GPT2LMHeadModel` with `add_cross_attention`. "gelu" is the tanh approximation, as
    in GPT-2. Initialisation follows section 2.3: the last kernel of each residual branch is scaled
    by 1 / sqrt(2 num_layers).
    """

    vocab_size: Given[int] = 50257
    max_length: Length = 1024
    width: Width = 768
    num_layers: Depth = 12
    num_heads: Count = 12
    tie_embeddings: bool = True
    epsilon: NotNegative = 1e-5
    use_output_bias: bool = False
    kernel_std: Given[float] = 0.02

    training = PretrainedDecoderFields

    @nn.nowrap
    def validate(self) -> None:
        """See `Part`."""
        super().validate()
        check_heads(self.num_heads, self.width)

    @property
    def unpublished(self) -> tuple[str, ...]:
        """The cross-attention, which GPT-2 lacks; see `Decoder`."""
        blocks = range(self.num_layers)
        return tuple(
            f"blocks_{i}/{part}" for i in blocks for part in ("cross_attention", "norms_1")
        )


PART = GPT2Decoder
