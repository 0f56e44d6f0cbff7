"""Small captioners of transformers, a ViT with a GPT-2, with random weights: the tests' reference.

Importing it needs torch and transformers.
"""

import json
import types
import warnings
from unittest import mock

import jax
import numpy as np
import torch
import transformers

from capjax.evaluate.captioning import BeamSearch, make_decode
from tests.helpers.transformers_vits import BASE, normalised, save

# Compiling takes longer than all else here.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def make(seed=0, *, vocabulary=280, projection=True, end=(0.0, 0.0), end_id=0, depth=2, **fields):
    """A captioner whose parameters are all random: norms and biases, too.

    `end` raises the end token's logit: by so much on average, and by so much more or less.
    """
    width = 32 if projection else BASE["hidden_size"]
    heads = 4 if projection else 3
    ids = {name: end_id for name in ("bos_token_id", "eos_token_id")}
    decoder = transformers.GPT2Config(
        **{
            **{"n_embd": width, "n_layer": depth, "n_head": heads, "n_positions": 24},
            **{"vocab_size": vocabulary, "add_cross_attention": True, "is_decoder": True},
            **ids,
            **fields,
        }
    )
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(
            transformers.ViTConfig(**{**BASE, "num_hidden_layers": depth})
        ),
        decoder=transformers.GPT2LMHeadModel(decoder),
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        # Otherwise all pictures would have one caption of few words, and a search no choices.
        model.decoder.transformer.wte.weight.mul_(2)
        model.decoder.transformer.ln_f.weight.mul_(3)
        for block in model.decoder.transformer.h:
            block.crossattention.q_attn.weight.mul_(8)
            block.crossattention.c_attn.weight.mul_(2)
        raise_end(model, end_id, *end)
    ids |= {"decoder_start_token_id": end_id, "pad_token_id": end_id}
    model.generation_config.update(**ids)
    return model


def raise_end(model, end_id, mean, spread):
    """Gives the end token a row that makes its logit about N(mean, spread)."""
    last, words = model.decoder.transformer.ln_f, model.decoder.transformer.wte.weight
    with torch.no_grad():
        # A last state is bias + scale * a normed vector.
        row = torch.randn(words.shape[1], generator=torch.Generator().manual_seed(1))
        row -= row @ last.bias / (last.bias @ last.bias) * last.bias
        row *= spread / (row * last.weight).norm()
        words[end_id] = row + mean * last.bias / (last.bias @ last.bias)


def draw_full(kind, config, seed):
    """A model of full size, all of whose parameters are random, and drawn once."""
    of_all = transformers.PreTrainedModel
    with mock.patch.object(of_all, "init_weights", of_all.tie_weights):
        model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.2 if parameter.ndim == 1 else 0.04, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter += 1
    return model


def save_captioner(model, folder):
    """Writes config, weights, how generation goes and how pixels are wanted."""
    save(model, folder)
    about = {"image_mean": MEAN, "image_std": STD, "size": {"height": 16, "width": 16}}
    about["image_processor_type"] = "ViTImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(about))


def pixels(images):
    return normalised(images, {"mean": MEAN, "std": STD})


def logits(model, images, tokens):
    """[B, T, V], by NumPy."""
    with torch.no_grad():
        found = model(pixel_values=pixels(images), decoder_input_ids=torch.from_numpy(tokens))
    return found.logits.numpy()


def shifted_loss(model, images, tokens, labels):
    """The mean loss of a BLIP or GIT, which shifts the labels [B, T] of the tokens [B, T]."""
    rows = {"input_ids": tokens, "labels": labels}
    rows = {name: torch.from_numpy(value).long() for name, value in rows.items()}
    return model(pixel_values=pixels(images), **rows).loss


def raise_row(last, head, weight, token, mean, spread):
    """Gives a token a row of `weight` and a bias that make its logit about N(mean, spread).

    `last` is the norm before the head: a state is bias + scale * a normed vector.
    """
    row = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        row *= spread / (row * last.weight).norm()
        weight[token] = row
        head.bias[token] = mean - row @ last.bias


def generate(model, images, **options):
    """(tokens [B, T] without the first, scores [B] or None of one beam) of `generate`."""
    if options.get("num_beams", 1) == 1:
        options = {k: v for k, v in options.items() if k in ("num_beams", "max_length")}
    sequences, scores = generated(model, images, **options)
    return sequences[:, 1:], scores


def generated(model, images, **options):
    """(whole sequences, scores [B] or None of one beam) of `generate`, of NumPy arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = model.generate(
            pixel_values=pixels(images),
            **options,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    scores = getattr(output, "sequences_scores", None)
    return output.sequences.numpy(), None if scores is None else scores.numpy()


def padded(tokens, length, end_id=0):
    """Tokens [B, T] with ends up to `length`."""
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])), constant_values=end_id)


def ours(module, variables, images, options, end_id=0, compiler_options=QUICK):
    """(tokens [B, T], lengths [B], finished [B], scores [B]) of the best captions."""
    ids = types.SimpleNamespace(bos_id=end_id, eos_id=end_id, pad_id=end_id)
    decode = make_decode(module, ids, BeamSearch(**options), attention=False)

    @jax.jit(compiler_options=compiler_options)
    def caption(variables, images):
        memory = module.apply(variables, images, method="encode")
        return decode(variables, memory, np.arange(len(images)))

    found = jax.tree.map(np.asarray, caption(variables, images))
    leaves = (found.tokens, found.lengths, found.finished, found.scores)
    return tuple(leaf[:, 0] for leaf in leaves)


def check_ties(model, images, found, expected, scores, end_id=0):
    """Where the captions differ, both are as good, within float32's error; gives their share."""
    (tokens, score), differ = found, np.flatnonzero((found[0] != expected).any(1))
    for row in differ:
        if scores is not None:
            assert abs(score[row] - scores[row]) <= 1e-5 * max(1, abs(scores[row]))
            continue
        # Greedy: the two words after what is common to both.
        first = np.flatnonzero(tokens[row] != expected[row])[0]
        fed = np.concatenate([[end_id], tokens[row, :first]])[None]
        last = logits(model, images[row : row + 1], fed)[0, -1]
        both = last[[tokens[row, first], expected[row, first]]]
        assert abs(both[0] - both[1]) <= 1e-5 * np.abs(last).max()
    return len(differ) / len(tokens)
