"""The decoding method of a run with some settings changed, in Python and on the command line."""

from typing import Any

from ml_collections import ConfigDict

from capjax.config import build
from capjax.config.checks import check_decoding
from capjax.config.errors import ConfigError
from capjax.evaluate.captioning import Method
from capjax.files.text import nearest

# Each of these asks for a sample.
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
# An earlier name.
_RENAMED = {"beam_size": "num_beams"}


def choose_method(config: ConfigDict, **settings: Any) -> Method:
    """Builds the decoding method of a config with other settings.

    Args:
      config: the whole config.
      **settings: fields of `config.decoding` to change, also `beam_size` for `num_beams`; None
        keeps the config's. A temperature, top_k, top_p or min_p asks for a sample, else num_beams
        or length_penalty for beam search.

    Raises:
      ConfigError: there is no such setting, or the model can't decode with it.
    """
    given = {_RENAMED.get(name, name): v for name, v in settings.items() if v is not None}
    section = config.decoding.copy_and_resolve_references()
    if unknown := sorted(given.keys() - section.keys()):
        raise ConfigError(f"there is no setting {unknown[0]!r}: {nearest(unknown[0], section)}")
    if given.keys() & {*SAMPLING}:
        given = {"method": "sample", "num_beams": 1, **given}
    elif given.keys() & {"num_beams", "length_penalty"}:
        given = {"method": "beam", **given}
    with section.ignore_type():  # `check_decoding` has the better error.
        section.update(given)
    check_decoding(section, config)
    return build.decoding_method(section)
