"""The decoding method of a run with some settings changed, in Python and on the command line."""

from typing import Any

from ml_collections import ConfigDict

from capjax.config import build
from capjax.config.checks import OF_BEAMS, check_decoding, check_words, is_sampled
from capjax.config.errors import ConfigError
from capjax.data.tokenizer import Tokenizer
from capjax.evaluate.methods import Method
from capjax.files.text import nearest

# Each of these asks for a method, the first group that is given.
_ASKING = {
    "consensus": ("candidates", "num_samples", "rewards", "reward_weights"),
    "sample": ("temperature", "top_k", "top_p", "min_p", "typical_p"),
    "beam": (
        *("num_beams", "length_penalty", "length_normalization"),
        *("num_beam_groups", "diversity_penalty", "must_include"),
    ),
}
# Other names of a setting.
_RENAMED = {"beam_size": "num_beams", "reward": "rewards"}


def choose_method(config: ConfigDict, tokenizer: Tokenizer, **settings: Any) -> Method:
    """Builds the decoding method of a config with other settings.

    Args:
      config: the whole config.
      tokenizer: the run's.
      **settings: fields of `config.decoding` to change, also `beam_size` for `num_beams` and
        `reward` for `rewards`, which weigh 1 each unless there are `reward_weights`; None keeps the
        config's. Without a `method` among them, candidates, num_samples or rewards ask for
        consensus, else a temperature, top_k, top_p, min_p or typical_p for a sample, else a setting
        of beams for beam search, except where they are of the candidates of the config's consensus.

    Raises:
      ConfigError: there is no such setting, the model can't decode with it, or a word is outside
        the vocabulary.
    """
    given = {_RENAMED.get(name, name): v for name, v in settings.items() if v is not None}
    if "rewards" in given:
        names = given["rewards"]
        given["rewards"] = (names,) if isinstance(names, str) else tuple(names)
        given.setdefault("reward_weights", (1.0,) * len(given["rewards"]))
    section = config.decoding.copy_and_resolve_references()
    if unknown := sorted(given.keys() - section.keys()):
        raise ConfigError(f"there is no setting {unknown[0]!r}: {nearest(unknown[0], section)}")
    for method, names in _ASKING.items():
        if given.keys() & {*names}:
            is_of_candidates = section.method == "consensus" and section.candidates == method
            given = given if is_of_candidates else {"method": method, **given}
            break
    with section.ignore_type():  # `check_decoding` has the better error.
        section.update({name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
        if "method" in given and is_sampled(section):
            # The config's own search may have been of beams.
            section.update({name: v for name, v in OF_BEAMS.items() if name not in given})
    check_decoding(section, config)
    found = build.decoding_method(section)
    check_words(found, tokenizer)
    return found
