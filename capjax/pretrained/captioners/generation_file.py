"""The generation settings of a captioner of transformers: generation_config.json, or older fields.

The settings mean what they mean to `transformers.generate`. One that would change captions and that
`capjax.decode` lacks is refused by name.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from capjax.data.tokenizer import Tokenizer
from capjax.decode.processors import UNPROCESSED, Processors
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.errors import WeightsError, refusal

FILE = "generation_config.json"
# Of `transformers.generate`, where both files are silent: so many tokens beside the first.
_DEFAULT_NEW_TOKENS = 20
# Of special tokens, with their roles in a tokenizer.
_IDS = {
    "decoder_start_token_id": "bos",
    "bos_token_id": "bos",
    "eos_token_id": "eos",
    "pad_token_id": "pad",
}
_BANS = ("suppress_tokens", "renormalize_logits")
# Fields of `Generation` by the same name.
_BEAMS = ("num_beams", "length_penalty", "early_stopping")
_GROUPS = ("num_beam_groups", "diversity_penalty")
_READ = (*_BEAMS, *_GROUPS, "num_return_sequences", "max_length", "max_new_tokens")
# Fields of `Processors`; a list is one of ids.
_PROCESSORS = (
    *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "min_length"),
    *("min_new_tokens", "forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens"),
)
# Settings that are words in the config's decoding section, and their names there.
_IN_WORDS = {
    "bad_words_ids": "bad_words",
    "suppress_tokens": "suppress",
    "begin_suppress_tokens": "suppress_first",
    "forced_bos_token_id": "forced_first",
    "forced_eos_token_id": "forced_last",
}
# Settings that change captions, with the value that does not; nor do null and an empty list.
_HARMLESS: dict[str, Any] = {
    "do_sample": False,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "token_healing": False,
    "penalty_alpha": 0,
    "guidance_scale": 1,
    "use_mtp": False,
    "is_assistant": False,
    "force_words_ids": None,
    "constraints": None,
    "force_bos_token_to_be_generated": False,
    "forced_decoder_ids": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "max_time": None,
    "stop_strings": None,
    "watermarking_config": None,
    "dola_layers": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "speculation_type": None,
}
# Settings that change no caption without sampling.
_IGNORED = (
    *("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "remove_invalid_values", "low_memory", "prefill_chunk_size"),
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "compile_config", "disable_compile", "max_matching_ngram_size"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
    *("continuous_batching_config", "transformers_version", "_from_model_config", "_commit_hash"),
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """Settings of a beam search, as of `capjax.evaluate.methods.BeamSearch`, and processors."""

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    max_length: int = 1 + _DEFAULT_NEW_TOKENS
    num_captions: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    processors: Processors = UNPROCESSED

    def section(self) -> dict[str, Any]:
        """The fields of a beam search in a config's decoding section."""
        found = {name: value for name, value in vars(self).items() if name != "processors"}
        for name, value in _changed(self.processors).items():
            found[_IN_WORDS.get(name, name)] = _as_words(value) if name in _IN_WORDS else value
        return {"method": "beam", **found, "early_stopping": str(self.early_stopping).lower()}


def _changed(processors: Processors) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    return {
        name: value
        for name, value in vars(processors).items()
        if value != getattr(UNPROCESSED, name)
    }


def _as_words(ids: Any) -> Any:
    """Ids in the notation of `capjax.evaluate.control`."""
    if isinstance(ids, int):
        return f"<{ids}>"
    return tuple(
        " ".join(f"<{token}>" for token in ([each] if isinstance(each, int) else each))
        for each in ids
    )


def read_generation(
    folder: str | os.PathLike, tokenizer: Tokenizer, *, ids: bool = True
) -> Generation:
    """Reads the generation settings of a folder's captioner.

    As transformers does, by generation_config.json alone where there is one; else by the fields in
    config.json itself, and in its decoder's section for those that are not there.

    Args:
      folder: of the checkpoint.
      tokenizer: of the checkpoint; the ids of start, end and pad in the files must be its own, and
        the suppressed tokens must include all that it bans.
      ids: whether the files' ids of start, end and pad are compared; BLIP's are not those it uses.

    Raises:
      WeightsError: a field is not supported, or unknown; names it and says what it must be.
    """
    path = os.path.join(folder, FILE)
    known = {*_IDS, *_BANS, *_READ, *_PROCESSORS, *_HARMLESS}
    if os.path.isfile(path):
        given = _without_nulls(read_json(path))
        unknown = sorted(given.keys() - known - {*_IGNORED})
        if unknown:
            raise refusal(path, unknown[0], given[unknown[0]], "left out")
    else:
        path = os.path.join(folder, "config.json")
        config = read_json(path)
        sections = (_without_nulls(part) for part in (config.get("decoder") or {}, config))
        given = {n: v for part in sections for n, v in part.items() if n in known}
    if not ids:
        given = {name: value for name, value in given.items() if name not in _IDS}
    _check(given, tokenizer, path)
    processors = _processors(given, tokenizer, path)
    _check_bans(given, processors, tokenizer, path)
    found = {name: given[name] for name in (*_BEAMS, *_GROUPS) if name in given}
    found["num_captions"] = given.get("num_return_sequences", 1)
    found["max_length"] = given.get("max_length", Generation.max_length)
    if "max_new_tokens" in given:
        found["max_length"] = 1 + given["max_new_tokens"]
    # transformers ignores it with one group.
    if found.get("num_beam_groups", 1) == 1:
        found.pop("diversity_penalty", None)
    return Generation(**found, processors=processors)


def _without_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def write_generation(generation: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of a generation_config.json, the inverse of `read_generation`.

    Raises:
      WeightsError: its beam search renormalises otherwise than transformers can; names a field.
    """
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    found = {name: ids[role] for name, role in _IDS.items()}
    found |= {name: getattr(generation, name) for name in (*_BEAMS, "max_length")}
    if generation.num_captions > 1:
        found["num_return_sequences"] = generation.num_captions
    if generation.num_beam_groups > 1:
        found |= {name: getattr(generation, name) for name in _GROUPS}
    processors = _changed(generation.processors)
    found |= {
        name: [*map(list, value)] if name == "bad_words_ids" else value
        for name, value in processors.items()
    }
    if suppressed := [*tokenizer.banned_ids, *processors.get("suppress_tokens", ())]:
        found["suppress_tokens"] = suppressed
    if tokenizer.banned_ids:
        found["renormalize_logits"] = True
    _check_bans(found, generation.processors, tokenizer, FILE)
    return found


def _processors(given: Mapping[str, Any], tokenizer: Tokenizer, path: str) -> Processors:
    """Reads the processors; raises WeightsError for a value of a wrong type."""
    fields = {name: given[name] for name in _PROCESSORS if given.get(name, []) != []}
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if isinstance(fields.get(name), list) and len(fields[name]) == 1:
            fields[name] = fields[name][0]
    for name, value in fields.items():
        if name == "repetition_penalty":
            fault = None if type(value) in (int, float) and value > 0 else "a number above 0"
        elif name == "bad_words_ids":
            is_ids = isinstance(value, list) and all(map(_are_ids, value)) and all(value)
            fault = None if is_ids else "a list of lists of ids"
        elif name == "begin_suppress_tokens":
            fault = None if _are_ids(value) else "a list of ids"
        else:
            fault = None if type(value) is int and value >= 0 else "a whole number of 0 or more"
        if fault:
            raise refusal(path, name, value, fault)
    extra = [
        token for token in given.get("suppress_tokens") or [] if token not in tokenizer.banned_ids
    ]
    return Processors(
        **{name: _tuples(value) for name, value in fields.items()}, suppress_tokens=tuple(extra)
    )


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(token) is int and token >= 0 for token in value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _check_bans(
    given: Mapping[str, Any], processors: Processors, tokenizer: Tokenizer, path: str
) -> None:
    """Raises WeightsError where transformers would compare beams by other probabilities.

    In capjax banned tokens have no probability, and the probability that processors take from a
    token goes to no other.
    """
    banned = list(tokenizer.banned_ids)
    suppressed = given.get("suppress_tokens") or []
    if not _are_ids(suppressed) or not {*banned} <= {*suppressed}:
        value = given.get("suppress_tokens")
        raise refusal(path, "suppress_tokens", value, json.dumps(banned or None))
    if given.get("num_beams", 1) == 1:
        return
    renormalises = given.get("renormalize_logits", False)
    if processors and (banned or renormalises is True):
        name, value = next(iter(_changed(processors).items()))
        raise WeightsError(
            f"{path}: {name}={json.dumps(value)} is not supported in a beam search with "
            f"{'banned tokens' if banned else 'renormalize_logits=true'}, which transformers "
            "normalises afterwards; leave it out, or set num_beams=1"
        )
    # Without, the probability of banned tokens would be taken from the others, and beams be
    # compared by that.
    if banned and renormalises is not True:
        raise refusal(path, "renormalize_logits", renormalises, "true")


def _check(given: Mapping[str, Any], tokenizer: Tokenizer, path: str) -> None:
    """Raises WeightsError for the first field that a beam search can't be given."""
    for name, value in given.items():
        if name in _HARMLESS and value not in (_HARMLESS[name], [], {}):
            raise refusal(path, name, value, json.dumps(_HARMLESS[name]))
        if name in _IDS:
            token = getattr(tokenizer, f"{_IDS[name]}_id")
            role = "end" if token == tokenizer.eos_id else _IDS[name]
            if value not in (token, [token]):
                raise refusal(path, name, value, f"{token}, the tokenizer's {role}")
    least = {"num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1}
    for name, number in (least | {"max_length": 2, "max_new_tokens": 1}).items():
        value = given.get(name, number)
        if type(value) is not int or value < number:
            raise refusal(path, name, value, f"a whole number of {number} or more")
    for name in ("length_penalty", "diversity_penalty"):
        if type(given.get(name, 1.0)) not in (int, float):
            raise refusal(path, name, given[name], "a number")
    beams, groups = given.get("num_beams", 1), given.get("num_beam_groups", 1)
    if beams % groups:
        raise refusal(path, "num_beam_groups", groups, f"a divisor of num_beams={beams}")
    if groups > 1 and not given.get("diversity_penalty", 0) > 0:
        value = given.get("diversity_penalty", 0)
        raise refusal(path, "diversity_penalty", value, "above 0 with num_beam_groups above 1")
    captions = given.get("num_return_sequences", 1)
    if captions > beams:
        raise refusal(path, "num_return_sequences", captions, f"at most num_beams={beams}")
    stopping = given.get("early_stopping", False)
    if not isinstance(stopping, bool) and stopping != "never":
        raise refusal(path, "early_stopping", stopping, 'true, false or "never"')
