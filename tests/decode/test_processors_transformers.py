"""Processors beside the classes of `transformers`, and beside its `generate`, in their mixtures."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from capjax.decode.beam import beam_search
from capjax.decode.processors import Processors
from capjax.decode.sampling import sample
from tests.helpers.effort import sweep
from tests.helpers.references import need_transformers

transformers = need_transformers()
from tests.helpers.table_model import TableModel, generate, torch  # noqa: E402

BOS, PAD, EOS, VOCABULARY, IMAGES = 1, 3, 7, 30, 6

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

PHRASES = [[5], [4, 5], [5, 5, 4], [EOS], [5, EOS], [EOS, 4]]


def their_processor(name, value, *, max_length, given):
    """An instance of the class of transformers that does what the field says."""
    them = transformers.generation.logits_process
    return {
        "repetition_penalty": lambda: them.RepetitionPenaltyLogitsProcessor(value),
        "no_repeat_ngram_size": lambda: them.NoRepeatNGramLogitsProcessor(value),
        "bad_words_ids": lambda: them.NoBadWordsLogitsProcessor([*map(list, value)], EOS),
        "min_length": lambda: them.MinLengthLogitsProcessor(value, EOS),
        "min_new_tokens": lambda: them.MinNewTokensLengthLogitsProcessor(given, value, EOS),
        "forced_bos_token_id": lambda: them.ForcedBOSTokenLogitsProcessor(value),
        "forced_eos_token_id": lambda: them.ForcedEOSTokenLogitsProcessor(max_length, value),
        "suppress_tokens": lambda: them.SuppressTokensLogitsProcessor(value),
        "begin_suppress_tokens": lambda: them.SuppressTokensAtBeginLogitsProcessor(value, given),
    }[name]()


ONE = [
    ("repetition_penalty", 1.7),
    ("repetition_penalty", 0.6),
    ("no_repeat_ngram_size", 1),
    ("no_repeat_ngram_size", 2),
    ("no_repeat_ngram_size", 3),
    ("bad_words_ids", tuple(map(tuple, PHRASES))),
    ("min_length", 5),
    ("min_new_tokens", 4),
    ("forced_bos_token_id", 9),
    ("forced_eos_token_id", EOS),
    ("suppress_tokens", (4, EOS, 29)),
    ("begin_suppress_tokens", (4, EOS)),
]


@pytest.mark.parametrize(("name", "value"), ONE)
def test_each_processor_is_that_of_transformers(name, value):
    rng = np.random.default_rng(0)
    rows, width, max_length, prompt_length = 2, 8, 10, 2
    # Four words, so that n-grams and phrases come again.
    history = rng.integers(4, 8, size=(rows, width, max_length - 1))
    scores = rng.normal(size=(rows, width, VOCABULARY)).astype(np.float32)
    ours = fast_jit(
        functools.partial(
            Processors(**{name: value}),
            eos_id=EOS,
            max_length=max_length,
            prompt_length=prompt_length,
        )
    )
    theirs = their_processor(name, value, max_length=max_length, given=1 + prompt_length)
    changed = 0
    for length in range(1, max_length):
        fed = torch.tensor(history[..., :length].reshape(rows * width, -1))
        wanted = theirs(fed, torch.tensor(scores.reshape(rows * width, -1))).numpy()
        wanted = wanted.reshape(scores.shape)
        # What lies beyond the length is of no account.
        np.testing.assert_allclose(ours(history, jnp.int32(length), scores), wanted, rtol=1e-6)
        changed += (wanted != scores).any()
    assert changed


def mixture(seed):
    """(num_beams, prompt, options of the search, fields of `Processors`), drawn by a seed."""
    rng = np.random.default_rng(seed)
    num_beams = int(rng.choice([1, 2, 4]))
    prompt = tuple(rng.integers(8, 12, size=rng.choice([0, 0, 2])).tolist())
    choices = {
        "repetition_penalty": float(rng.choice([0.8, 1.3])),
        "no_repeat_ngram_size": int(rng.choice([1, 2, 3])),
        "bad_words_ids": ((5,), (8, 9), (9, 8, 9), (10, EOS)),
        "min_length": int(rng.integers(3, 7)),
        "min_new_tokens": int(rng.integers(2, 5)),
        "forced_bos_token_id": 12,
        "forced_eos_token_id": EOS,
        "suppress_tokens": (4, 6),
        "begin_suppress_tokens": (EOS, 13),
    }
    chosen = {name: value for name, value in choices.items() if rng.random() < 0.45}
    if prompt:
        chosen.pop("forced_bos_token_id", None)
    search = {"length_penalty": float(rng.choice([-1.0, 0.0, 0.7, 2.0]))}
    search["early_stopping"] = [True, False, "never"][rng.integers(3)]
    return num_beams, prompt, search, chosen


@pytest.fixture(scope="module")
def pair(toy):
    decoder = toy(VOCABULARY, seed=5)
    # A few likely words, so that there is something to repeat.
    decoder.logits[:, 8:14] += 2
    decoder.logits[::4, EOS] += 6
    logits = decoder.logits.astype(np.float64)
    decoder.table = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return decoder, TableModel(decoder)


@pytest.mark.parametrize("seed", sweep(range(60), range(20)))
def test_mixtures_give_the_captions_of_generate(pair, seed):
    decoder, model = pair
    num_beams, prompt, search, chosen = mixture(seed)
    given, max_length = [BOS, *prompt], 11
    theirs = {
        name: [*map(list, value)] if name == "bad_words_ids" else value
        for name, value in chosen.items()
    }
    if num_beams > 1:
        theirs |= search
    tokens, scores = generate(
        model,
        IMAGES,
        eos=EOS,
        pad=PAD,
        given=given,
        max_length=max_length,
        num_beams=num_beams,
        **theirs,
    )

    options = {"num_beams": num_beams, "max_length": max_length, "prompt": prompt, **search}
    options |= {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "processors": Processors(**chosen)}
    run = fast_jit(lambda carry: beam_search(decoder.step, carry, **options))
    ours = jax.tree.map(np.asarray, run(decoder.carry(np.arange(IMAGES), num_beams)))
    np.testing.assert_array_equal(ours.tokens, tokens)
    lengths = 1 if num_beams > 1 else ours.lengths ** search["length_penalty"]
    np.testing.assert_allclose(ours.scores * lengths, scores, atol=1e-4)
    for place in np.ndindex(ours.lengths.shape):
        said = ours.tokens[place][: ours.lengths[place]].tolist()
        own = [
            decoder.log_probs(place[0], [*given, *said[:t]])[token] for t, token in enumerate(said)
        ]
        np.testing.assert_allclose(ours.token_log_probs[place][: len(said)], own, atol=1e-4)
        np.testing.assert_allclose(ours.log_probs[place], sum(own), atol=1e-4)


def restriction(seed):
    """(fields of `Processors`, options of `sample`), drawn by a seed."""
    rng = np.random.default_rng(seed)
    fields = {
        "repetition_penalty": float(rng.choice([0.6, 2.0])),
        "bad_words_ids": ((8,), (BOS, 9)),
        "min_length": 3,
        "suppress_tokens": (10, 11),
    }
    limits = {
        "temperature": float(rng.choice([0.7, 2.0])),
        "top_k": 9,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.7,
    }
    fields, limits = (
        {name: value for name, value in chosen.items() if rng.random() < 0.6}
        for chosen in (fields, limits)
    )
    return fields, limits


@pytest.mark.parametrize("seed", sweep(range(20), range(4)))
def test_samples_pass_a_chi_squared_test_of_the_logits_of_generate(pair, seed):
    """Were the seeds drawn anew, right draws would fail once in 10,000 runs of all cases."""
    decoder, model = pair
    fields, limits = restriction(seed)
    theirs = fields | {"top_k": 0} | limits
    if "bad_words_ids" in fields:
        theirs["bad_words_ids"] = [*map(list, fields["bad_words_ids"])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = model.generate(
            input_ids=torch.full((IMAGES, 1), BOS),
            images=torch.arange(IMAGES),
            generation_config=transformers.GenerationConfig(
                do_sample=True,
                max_new_tokens=1,
                use_cache=False,
                eos_token_id=EOS,
                pad_token_id=PAD,
                output_scores=True,
                return_dict_in_generate=True,
                **theirs,
            ),
        )
    wanted = torch.softmax(output.scores[0].double(), dim=-1).numpy()

    draws = 4000
    options = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "max_length": 4, "temperature": 1.0}
    options |= {**limits, "processors": Processors(**fields)}
    run = fast_jit(lambda carry, key: sample(decoder.step, carry, key, **options).tokens)
    tokens = np.asarray(run(decoder.carry(np.arange(IMAGES), draws), jax.random.key(seed)))
    for image in range(IMAGES):
        counts = np.bincount(tokens[image, :, 0], minlength=VOCABULARY)
        kept = wanted[image] > 0
        assert counts[kept].sum() == draws
        # The statistic is chi-squared where enough are expected; the rest is one class.
        common = kept & (wanted[image] * draws >= 5)
        rest = kept & ~common
        expected = draws * np.append(wanted[image][common], wanted[image][rest].sum())
        found = np.append(counts[common], counts[rest].sum())
        statistic = ((found - expected) ** 2 / np.maximum(expected, 1)).sum()
        assert statistic <= stats.chi2.isf(1e-4 / (20 * IMAGES), max(len(expected) - 1, 1))
