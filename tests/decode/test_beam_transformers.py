"""The very captions of `transformers.generate`, from one table of logits on both sides."""

import functools
import itertools
import warnings

import jax
import numpy as np
import pytest

from capjax.decode.beam import beam_search
from tests.helpers.effort import sweep
from tests.helpers.references import need_torch, need_transformers

torch = need_torch()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of importing another library
    transformers = need_transformers()

EOS, VOCABULARY, IMAGES = 7, 50, 32

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class TableModel(transformers.PreTrainedModel, transformers.GenerationMixin):
    """The toy decoder in torch; `images` [batch] is the input that says which image it captions."""

    config_class = transformers.PretrainedConfig
    _supports_cache_class = False

    def __init__(self, decoder):
        super().__init__(transformers.PretrainedConfig(vocab_size=VOCABULARY))
        self.decoder = decoder
        self.table = torch.nn.Parameter(torch.from_numpy(decoder.logits), requires_grad=False)

    def prepare_inputs_for_generation(self, input_ids, images=None, **_):
        return {"input_ids": input_ids, "images": images}

    def forward(self, input_ids, images, return_dict=True):
        state = images
        for token in input_ids.T:
            state = self.decoder.advance(state, token)
        logits = self.table[state % self.decoder.rows][:, None]
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


@pytest.fixture(scope="module")
def pairs(toy):
    """The same decoder twice, for each length penalty.

    After one prefix in five it all but ends. A penalty of 2 pays for almost any continuation, so
    there every prefix likes to end; otherwise little would end before the limit.
    """
    decoders = {0.6: toy(VOCABULARY, seed=21), 2.0: toy(VOCABULARY, seed=21, boost=[(EOS, 5.0)])}
    decoders[0.6].logits[::5, EOS] += 12
    decoders[1.0] = decoders[0.6]
    return {penalty: (decoder, TableModel(decoder)) for penalty, decoder in decoders.items()}


def theirs(model, *, bos, pad, num_beams, max_length, length_penalty, early_stopping):
    """(tokens [B, K, max_length - 1], scores [B, K] or None when greedy) of `generate`."""
    beams = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = model.generate(
            input_ids=torch.full((IMAGES, 1), bos),
            images=torch.arange(IMAGES),
            generation_config=transformers.GenerationConfig(
                num_beams=num_beams,
                num_return_sequences=num_beams,
                max_length=max_length,
                do_sample=False,
                use_cache=False,
                bos_token_id=bos,
                eos_token_id=EOS,
                pad_token_id=pad,
                output_scores=True,
                return_dict_in_generate=True,
                **(beams if num_beams > 1 else {}),
            ),
        )
    tokens = output.sequences.numpy()[:, 1:].reshape(IMAGES, num_beams, -1)
    tokens = np.pad(
        tokens, ((0, 0), (0, 0), (0, max_length - 1 - tokens.shape[-1])), constant_values=pad
    )
    if num_beams == 1:
        return tokens, None
    return tokens, output.sequences_scores.numpy().reshape(IMAGES, num_beams)


CASES = [
    (*case, (16, 20)[i % 2])
    for i, case in enumerate(
        itertools.product([1, 2, 4, 5], [0.6, 1.0, 2.0], [True, False, "never"])
    )
]
# Each value of each option.
DAILY = [case for i, case in enumerate(CASES) if i in (0, 13, 20, 25, 33)]


@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "early_stopping", "max_length"),
    sweep(CASES, DAILY),
)
def test_every_hypothesis_is_the_same(pairs, num_beams, length_penalty, early_stopping, max_length):
    decoder, model = pairs[length_penalty]
    options = {"num_beams": num_beams, "max_length": max_length}
    options |= {"length_penalty": length_penalty, "early_stopping": early_stopping}
    # GPT-2 has one id for bos, eos and pad; half of the cases have three.
    bos, pad = (EOS, EOS) if max_length == 16 else (1, 3)
    tokens, scores = theirs(model, bos=bos, pad=pad, **options)

    ids = {"bos_id": bos, "eos_id": EOS, "pad_id": pad}
    run = fast_jit(lambda carry: beam_search(decoder.step, carry, chunk=5, **ids, **options))
    ours = run(decoder.carry(np.arange(IMAGES), num_beams))
    np.testing.assert_array_equal(ours.tokens, tokens)
    if scores is not None:
        np.testing.assert_allclose(ours.scores, scores, atol=1e-4)
    ended_early = np.asarray(ours.finished & (ours.lengths < max_length - 1))
    # The one pair of options under which nearly every caption is worth going on with.
    long = (length_penalty, early_stopping) == (2.0, "never") and num_beams > 1
    assert ended_early.mean() >= (0.1 if long else 0.3)
