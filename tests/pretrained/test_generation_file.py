"""Generation settings are those of transformers, and what can't be had is refused by name."""

import json
import types

import pytest

from capjax.data.tokenizer import train_word_tokenizer
from capjax.decode.processors import Processors
from capjax.pretrained.captioners import generation_file
from capjax.pretrained.captioners.generation_file import (
    Generation,
    read_generation,
    write_generation,
)
from capjax.pretrained.errors import WeightsError
from tests.helpers.references import need_transformers

IDS = dict.fromkeys(
    ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 50256
)


def read(folder, generation=None, config=None, end_id=50256):
    for name, content in (("generation_config.json", generation), ("config.json", config)):
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    roles = ("bos_id", "eos_id", "pad_id", "unk_id")
    tokenizer = types.SimpleNamespace(**dict.fromkeys(roles, end_id), banned_ids=())
    return read_generation(folder, tokenizer)


def test_settings_are_read(tmp_path):
    given = {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True, "max_length": 16}
    book = {"transformers_version": "4.27.0", "_from_model_config": True, "use_cache": True}
    found = read(tmp_path, {**IDS, **given, **book, "top_k": 20, "temperature": 0.7})
    assert found == Generation(**given)
    assert read(tmp_path, {"max_new_tokens": 15, "max_length": 40}).max_length == 16
    assert read(tmp_path, {"early_stopping": "never"}).early_stopping == "never"
    assert read(tmp_path, {"eos_token_id": [50256]}) == Generation(1, 1.0, False, 21)


def test_older_fields_count_where_there_is_no_newer_file(tmp_path):
    old = {"decoder": {"num_beams": 3, "max_length": 20, "n_embd": 8}, "num_beams": 2, **IDS}
    assert read(tmp_path, None, old) == Generation(2, 1.0, False, 20)
    assert read(tmp_path, {}, old) == Generation()
    # A null says nothing.
    assert read(tmp_path, None, {**old, "num_beams": None}).num_beams == 3
    with pytest.raises(WeightsError, match=r"config\.json: do_sample=true is not supported"):
        read(tmp_path, None, {"decoder": {"do_sample": True}})


def test_every_field_of_transformers_is_known(tmp_path):
    transformers = need_transformers()
    fields = transformers.GenerationConfig().to_dict() | {"max_length": 20}
    known = {*generation_file._IDS, *generation_file._BANS, *generation_file._READ}
    known |= {*generation_file._PROCESSORS}
    unknown = fields.keys() - known - generation_file._HARMLESS.keys() - {*generation_file._IGNORED}
    assert not unknown
    # Their defaults are harmless.
    defaults = transformers.GenerationConfig._get_default_generation_params()
    assert read(tmp_path, {**fields, **defaults}) == Generation(1, 1.0, False, 20)


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("do_sample", True, "false"),
        ("no_repeat_ngram_size", -3, "a whole number of 0 or more"),
        ("repetition_penalty", 0, "a number above 0"),
        ("num_beam_groups", 3, "a divisor of num_beams=4"),
        ("num_beam_groups", 0, "a whole number of 1 or more"),
        ("num_return_sequences", 5, "at most num_beams=4"),
        ("bad_words_ids", [7], "a list of lists of ids"),
        ("begin_suppress_tokens", [-1], "a list of ids"),
        ("force_words_ids", [[7]], "null"),
        ("guidance_scale", 2.0, "1"),
        ("speed", 3, "left out"),
        ("num_beams", 0, "a whole number of 1 or more"),
        ("num_beams", "4", "a whole number of 1 or more"),
        ("max_length", 1, "a whole number of 2 or more"),
        ("length_penalty", "long", "a number"),
        ("early_stopping", "often", 'true, false or "never"'),
        ("pad_token_id", 50257, "50256, the tokenizer's end"),
        ("eos_token_id", [50256, 13], "50256, the tokenizer's end"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path, field, value, instead):
    with pytest.raises(WeightsError) as caught:
        read(tmp_path, {**IDS, "num_beams": 4, field: value})
    assert str(caught.value) == (
        f"{tmp_path}/generation_config.json: {field}={json.dumps(value)} is not supported; "
        f"it must be {instead}"
    )


# By the names of transformers, and in a config's decoding section.
PROCESSORS = {
    "repetition_penalty": (1.2, {"repetition_penalty": 1.2}),
    "no_repeat_ngram_size": (3, {"no_repeat_ngram_size": 3}),
    "min_length": (5, {"min_length": 5}),
    "min_new_tokens": (4, {"min_new_tokens": 4}),
    "bad_words_ids": ([[7], [8, 9]], {"bad_words": ("<7>", "<8> <9>")}),
    "suppress_tokens": ([1, 2], {"suppress": ("<1>", "<2>")}),
    "begin_suppress_tokens": ([3], {"suppress_first": ("<3>",)}),
    "forced_bos_token_id": (5, {"forced_first": "<5>"}),
    "forced_eos_token_id": (50256, {"forced_last": "<50256>"}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_are_read_and_written(tmp_path, name):
    value, section = PROCESSORS[name]
    found = read(tmp_path, {**IDS, "num_beams": 4, name: value})
    assert found.processors
    assert found.section().items() >= section.items()
    tokenizer = types.SimpleNamespace(bos_id=50256, eos_id=50256, pad_id=50256, banned_ids=())
    written = json.loads(json.dumps(write_generation(found, tokenizer)))
    assert written[name] == value
    assert read(tmp_path, written) == found


def test_groups_and_captions_are_read(tmp_path):
    given = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}
    found = read(tmp_path, {**IDS, **given, "num_return_sequences": 3})
    assert found == Generation(4, num_captions=3, num_beam_groups=2, diversity_penalty=0.5)
    with pytest.raises(WeightsError, match="diversity_penalty=0 is not supported; it must be abov"):
        read(tmp_path, {**given, "diversity_penalty": 0})


def test_what_is_normalised_otherwise_is_refused(tmp_path):
    """Banned tokens have no probability here, and transformers takes it from processed beams."""
    with pytest.raises(
        WeightsError, match=r"min_length=5 is not supported in a beam search with b"
    ):
        read_words(tmp_path, min_length=5)
    assert read_words(tmp_path, min_length=5, num_beams=1).processors == Processors(min_length=5)
    with pytest.raises(WeightsError, match=r"min_length=5 .* with renormalize_logits=true"):
        read(tmp_path, {**IDS, "num_beams": 2, "min_length": 5, "renormalize_logits": True})


def test_an_empty_list_asks_for_nothing(tmp_path):
    assert read(tmp_path, {"suppress_tokens": [], "sequence_bias": None}) == Generation()


def read_words(folder, **changes):
    """The settings of a captioner with the four special tokens, some of them changed."""
    tokenizer = train_word_tokenizer(["a cat"])
    settings = {**write_generation(Generation(4, 0.6, "never", 16), tokenizer), **changes}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return read_generation(folder, tokenizer)


def test_what_is_written_is_read(tmp_path):
    assert read_words(tmp_path) == Generation(4, 0.6, "never", 16)
    # Of one beam no probabilities are compared.
    assert read_words(tmp_path, num_beams=1, renormalize_logits=None).num_beams == 1


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [
        ("suppress_tokens", None, "[0, 1, 3]"),
        ("suppress_tokens", [0, 1], "[0, 1, 3]"),
        ("renormalize_logits", False, "true"),
        ("pad_token_id", 2, "0, the tokenizer's pad"),
        ("decoder_start_token_id", 2, "1, the tokenizer's bos"),
        ("eos_token_id", 0, "2, the tokenizer's end"),
    ],
)
def test_other_bans_and_ids_are_refused_by_name(tmp_path, field, value, instead):
    with pytest.raises(WeightsError) as caught:
        read_words(tmp_path, **{field: value})
    assert f"json: {field}={json.dumps(value)} is not supported; it must be {instead}" in str(
        caught.value
    )
