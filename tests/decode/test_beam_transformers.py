"""The very captions of `transformers.generate`, from one table of logits on both sides."""

import functools
import itertools

import jax
import numpy as np
import pytest

from capjax.decode.beam import beam_search
from tests.helpers.effort import sweep
from tests.helpers.references import need_transformers

need_transformers()
from tests.helpers.table_model import TableModel, generate  # noqa: E402

EOS, VOCABULARY, IMAGES = 7, 50, 32

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


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
    # Of one beam, transformers ignores the options of beams, and says so.
    used = options if num_beams > 1 else {"num_beams": 1, "max_length": max_length}
    tokens, scores = generate(model, IMAGES, eos=EOS, pad=pad, given=[bos], **used)

    ids = {"bos_id": bos, "eos_id": EOS, "pad_id": pad}
    run = fast_jit(lambda carry: beam_search(decoder.step, carry, chunk=5, **ids, **options))
    ours = run(decoder.carry(np.arange(IMAGES), num_beams))
    np.testing.assert_array_equal(ours.tokens, tokens)
    np.testing.assert_allclose(ours.scores if num_beams > 1 else ours.log_probs, scores, atol=1e-4)
    ended_early = np.asarray(ours.finished & (ours.lengths < max_length - 1))
    # The one pair of options under which nearly every caption is worth going on with.
    long = (length_penalty, early_stopping) == (2.0, "never") and num_beams > 1
    assert ended_early.mean() >= (0.1 if long else 0.3)
