"""The transformer blocks equal torch's own layers, given its weights."""

import jax.numpy as jnp
import numpy as np
import pytest

from capjax.models.decoders.transformer import DecoderBlock
from capjax.models.encoders.patch import EncoderBlock
from capjax.models.layers import Attention

torch = pytest.importorskip("torch", reason="torch is not installed: pip install capjax[parity]")

WIDTH, HEADS, HIDDEN = 16, 4, 40


def dense(layer):
    return {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}


def norm(layer):
    return {"scale": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}


def attention(layer):
    """torch keeps query, key and value in one matrix, capjax the first apart."""
    kernel, bias = layer.in_proj_weight.detach().numpy().T, layer.in_proj_bias.detach().numpy()
    return {
        "query": {"kernel": kernel[:, :WIDTH], "bias": bias[:WIDTH]},
        "key_value": {"kernel": kernel[:, WIDTH:], "bias": bias[WIDTH:]},
        "out": dense(layer.out_proj),
    }


def shake(module):
    """Norms and biases start at one and zero, where a mistake in them would not show."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def inputs(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("where", ["pre", "post"])
def test_decoder_block(where):
    torch.manual_seed(0)
    reference = shake(
        torch.nn.TransformerDecoderLayer(
            WIDTH, HEADS, HIDDEN, batch_first=True, norm_first=where == "pre", layer_norm_eps=1e-6
        )
    )
    params = {
        "self_attention": attention(reference.self_attn),
        "cross_attention": attention(reference.multihead_attn),
        "feed_forward": {"up": dense(reference.linear1), "down": dense(reference.linear2)},
        "norms_0": norm(reference.norm1),
        "norms_1": norm(reference.norm2),
        "norms_2": norm(reference.norm3),
    }
    block = DecoderBlock(WIDTH, HEADS, None, HIDDEN, where, "relu", 0.0, 0.0, jnp.float32)
    captions, memory = inputs(2, 3, 5, WIDTH), inputs(2, 7, WIDTH)

    def apply(module, x, memory):
        causal = jnp.tril(jnp.ones((5, 5), bool))
        keys = module.cross_attention.keys_values(memory)
        return module(x, keys, causal, train=False, attention=True)[0]

    ours = block.apply({"params": params}, captions, memory, method=apply)
    causal = torch.nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        theirs = reference(
            torch.from_numpy(captions).flatten(0, 1),
            torch.from_numpy(memory).repeat_interleave(3, 0),
            tgt_mask=causal,
        )
    np.testing.assert_allclose(ours, theirs.numpy().reshape(ours.shape), rtol=1e-4, atol=1e-5)


def test_encoder_block():
    torch.manual_seed(0)
    reference = shake(
        torch.nn.TransformerEncoderLayer(
            WIDTH,
            HEADS,
            HIDDEN,
            batch_first=True,
            norm_first=True,
            layer_norm_eps=1e-6,
            activation=lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        )
    )
    params = {
        "attention": attention(reference.self_attn),
        "feed_forward": {"up": dense(reference.linear1), "down": dense(reference.linear2)},
        "attention_norm": norm(reference.norm1),
        "feed_forward_norm": norm(reference.norm2),
    }
    x = inputs(2, 6, WIDTH)
    block = EncoderBlock(HEADS, WIDTH, HIDDEN, 0.0, jnp.float32)
    ours = block.apply({"params": params}, x, train=False)
    with torch.no_grad():
        theirs = reference(torch.from_numpy(x))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_attention_weights():
    torch.manual_seed(0)
    reference = shake(torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    x, memory = inputs(2, 4, WIDTH), inputs(2, 6, WIDTH)

    def apply(module, x, memory):
        return module(x, *module.keys_values(memory), train=False)

    module = Attention(HEADS, WIDTH)
    variables = {"params": attention(reference)}
    ours, weights = module.apply(variables, x, memory, method=apply)
    with torch.no_grad():
        theirs, expected = reference(
            *map(torch.from_numpy, (x, memory, memory)), average_attn_weights=False
        )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(weights, expected.numpy(), rtol=1e-4, atol=1e-6)
