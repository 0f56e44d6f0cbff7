"""The generation settings of a captioner of transformers: generation_config.json, or older fields.

The settings mean what `transformers.generate` gives them. What captions could not be made the same
way by a beam search is refused by name.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, Literal

from capjax.data.tokenizer import Tokenizer
from capjax.pretrained.checkpoint_folders import read_json
from capjax.pretrained.errors import WeightsError

FILE = "generation_config.json"
# Of `transformers.generate`, where both files are silent: so many tokens beside the first.
_DEFAULT_NEW_TOKENS = 20
# By what they are to a tokenizer.
_IDS = {
    "decoder_start_token_id": "bos",
    "bos_token_id": "bos",
    "eos_token_id": "eos",
    "pad_token_id": "pad",
}
_BANS = ("suppress_tokens", "renormalize_logits")
_READ = ("num_beams", "length_penalty", "early_stopping", "max_length", "max_new_tokens")
# What changes captions, with the value that does not; null and an empty list never do.
_HARMLESS: dict[str, Any] = {
    "do_sample": False,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0,
    "repetition_penalty": 1,
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "token_healing": False,
    "penalty_alpha": 0,
    "guidance_scale": 1,
    "use_mtp": False,
    "is_assistant": False,
    "bad_words_ids": None,
    "force_words_ids": None,
    "constraints": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "force_bos_token_to_be_generated": False,
    "forced_decoder_ids": None,
    "begin_suppress_tokens": None,
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
# What changes no caption without sampling.
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
    """The fields of `capjax.evaluate.captioning.BeamSearch`, which see."""

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    max_length: int = 1 + _DEFAULT_NEW_TOKENS

    def section(self) -> dict[str, Any]:
        """The fields of a beam search in a config's decoding section."""
        stopping = str(self.early_stopping).lower()
        return {"method": "beam", **dataclasses.asdict(self), "early_stopping": stopping}


def read_generation(folder: str | os.PathLike, tokenizer: Tokenizer) -> Generation:
    """Reads the generation settings of a folder's captioner.

    As transformers does, by generation_config.json alone where there is one; else by the fields in
    config.json itself, and in its decoder's section for those that are not there.

    Args:
      folder: of the checkpoint.
      tokenizer: of the checkpoint; ids that the files name must be its start, end and pad, and
        the tokens that they suppress those that it bans.

    Raises:
      WeightsError: a field is not supported, or unknown; names it and says what it must be.
    """
    path = os.path.join(folder, FILE)
    known = {*_IDS, *_BANS, *_READ, *_HARMLESS}
    if os.path.isfile(path):
        given = _without_nulls(read_json(path))
        unknown = sorted(given.keys() - known - {*_IGNORED})
        if unknown:
            raise _refusal(path, unknown[0], given[unknown[0]], "left out")
    else:
        path = os.path.join(folder, "config.json")
        config = read_json(path)
        sections = (_without_nulls(part) for part in (config.get("decoder") or {}, config))
        given = {n: v for part in sections for n, v in part.items() if n in known}
    _check(given, tokenizer, path)
    _check_bans(given, tokenizer, path)
    found = {name: given[name] for name in _READ[:4] if name in given}
    if "max_new_tokens" in given:
        found["max_length"] = 1 + given["max_new_tokens"]
    return Generation(**found)


def _without_nulls(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def write_generation(generation: Generation, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of a generation_config.json, the inverse of `read_generation`."""
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    found = {name: ids[role] for name, role in _IDS.items()} | dataclasses.asdict(generation)
    if tokenizer.banned_ids:
        found |= {"suppress_tokens": list(tokenizer.banned_ids), "renormalize_logits": True}
    return found


def _check_bans(given: Mapping[str, Any], tokenizer: Tokenizer, path: str) -> None:
    """Raises WeightsError where the tokens that are out of reach are not those of the tokenizer."""
    banned = list(tokenizer.banned_ids)
    suppressed = given.get("suppress_tokens") or []
    if suppressed != banned:
        value = given.get("suppress_tokens")
        raise _refusal(path, "suppress_tokens", value, json.dumps(banned or None))
    # Without, the probability of banned tokens would be taken from the others, and beams be
    # compared by that.
    if banned and given.get("num_beams", 1) > 1 and given.get("renormalize_logits") is not True:
        value = given.get("renormalize_logits", False)
        raise _refusal(path, "renormalize_logits", value, "true")


def _check(given: Mapping[str, Any], tokenizer: Tokenizer, path: str) -> None:
    """Raises WeightsError for the first field that a beam search can't be given."""
    for name, value in given.items():
        if name in _HARMLESS and value not in (_HARMLESS[name], [], {}):
            raise _refusal(path, name, value, json.dumps(_HARMLESS[name]))
        if name in _IDS:
            token = getattr(tokenizer, f"{_IDS[name]}_id")
            role = "end" if token == tokenizer.eos_id else _IDS[name]
            if value not in (token, [token]):
                raise _refusal(path, name, value, f"{token}, the tokenizer's {role}")
    least = {"num_beams": 1, "max_length": 2, "max_new_tokens": 1}
    for name, number in least.items():
        value = given.get(name, number)
        if type(value) is not int or value < number:
            raise _refusal(path, name, value, f"a whole number of {number} or more")
    if type(given.get("length_penalty", 1.0)) not in (int, float):
        raise _refusal(path, "length_penalty", given["length_penalty"], "a number")
    stopping = given.get("early_stopping", False)
    if not isinstance(stopping, bool) and stopping != "never":
        raise _refusal(path, "early_stopping", stopping, 'true, false or "never"')


def _refusal(path: str, name: str, value: Any, instead: str) -> WeightsError:
    return WeightsError(
        f"{path}: {name}={json.dumps(value)} is not supported; it must be {instead}"
    )
