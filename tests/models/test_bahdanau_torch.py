"""The recurrent decoders equal the papers' equations, arranged of torch's own modules."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.recurrent_cases import (
    BANNED,
    B,
    C,
    F,
    T,
    V,
    captioner,
    compiled,
    data,
    variables,
)

torch = pytest.importorskip("torch", reason="torch is not installed: pip install capjax[parity]")


def linear(params):
    """torch's Linear with a dense layer's weights."""
    kernel = np.array(params["kernel"]).T
    layer = torch.nn.Linear(kernel.shape[1], kernel.shape[0], bias="bias" in params)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel))
        if "bias" in params:
            layer.bias.copy_(torch.from_numpy(np.array(params["bias"])))
    return layer


def recurrent(params, cell):
    """torch's cell over word and context, one after the other."""
    inputs = np.concatenate([params["word"]["kernel"], params["context"]["kernel"]])
    hidden = np.array(params["hidden"]["kernel"])
    kind = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[cell]
    layer = kind(inputs.shape[0], hidden.shape[0])
    with torch.no_grad():
        layer.weight_ih.copy_(torch.from_numpy(inputs.T))
        layer.weight_hh.copy_(torch.from_numpy(hidden.T))
        layer.bias_ih.copy_(torch.from_numpy(np.array(params["word"]["bias"])))
        bias = params["hidden"].get("bias", np.zeros(len(layer.bias_hh), np.float32))
        layer.bias_hh.copy_(torch.from_numpy(np.array(bias)))
    return layer


def reference(decoder, params, features, tokens):
    """Logits and attention of one image's captions [C, T], word by word."""
    activation = {"tanh": torch.tanh, "relu": torch.relu}[decoder.attention_activation]
    attend = params["attend"]
    memory, state = linear(attend["memory"]), linear(attend["state"])
    score = torch.from_numpy(np.array(attend["score"]))
    cell = recurrent(params["recurrence"], decoder.cell)
    embedding = torch.from_numpy(np.array(params["tokens"]["embedding"]))
    output = linear(params["logits"])
    bias = torch.from_numpy(np.array(params["bias"]))

    captions = tokens.shape[0]
    a = features.expand(captions, -1, -1)
    mean = a.mean(dim=1)
    if decoder.initial_state == "mean":
        h = linear(params["initial_hidden"])(mean)
        c = linear(params["initial_cell"])(mean) if decoder.cell == "lstm" else None
    else:
        h = torch.zeros(captions, decoder.width)
        c = torch.zeros(captions, decoder.width)
    all_logits, all_weights = [], []
    for t in range(tokens.shape[1]):
        e = activation(memory(a) + state(h)[:, None]) @ score
        alpha = torch.softmax(e, dim=1)
        z = (alpha[:, :, None] * a).sum(dim=1)
        if decoder.gate != "none":
            z = torch.sigmoid(linear(params["gate_context"]["dense"])(h)) * z
        y = embedding[tokens[:, t]]
        x = torch.cat([y, z], dim=1)
        if decoder.cell == "lstm":
            h, c = cell(x, (h, c))
        else:
            h = cell(x, h)
        o = h
        if decoder.output == "hidden":
            o = linear(params["before_output"])(h)
        if decoder.output == "deep":
            o = y + linear(params["hidden_to_output"])(h) + linear(params["context_to_output"])(z)
        all_logits.append(output(o) + bias)
        all_weights.append(alpha)
    return torch.stack(all_logits, 1), torch.stack(all_weights, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"cell": "lstm", "attention_activation": "relu", "gate": "vector"},
        {"cell": "lstm", "output": "deep", "gate": "scalar"},
        {"cell": "gru", "output": "hidden", "initial_state": "zero"},
        {"cell": "gru", "output": "deep"},
    ],
    ids=["tutorial", "paper", "keras", "gru, deep"],
)
def test_logits_and_attention(fields):
    model = captioner(**fields)
    params = variables(model)
    features, tokens = data()
    ours = compiled(model)(params, features, tokens, train=False, attention=True)
    allowed = np.delete(np.arange(V), BANNED)
    for image in range(B):
        with torch.no_grad():
            logits, weights = reference(
                model.decoder,
                params["params"]["decoder"],
                torch.from_numpy(np.array(features[image : image + 1])),
                torch.from_numpy(np.array(tokens[image])).long(),
            )
        assert logits.shape == (C, T, V)
        np.testing.assert_allclose(
            ours.logits[image][..., allowed], logits.numpy()[..., allowed], rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(ours.attention[image][..., 0, :], weights.numpy(), atol=1e-5)
    assert jnp.asarray(features).shape[-1] == F
