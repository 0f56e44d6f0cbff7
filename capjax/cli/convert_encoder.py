"""Writes a pretrained encoder as one `.safetensors`, which needs no other library to be read.

    python -m capjax.convert_encoder --to clip.safetensors \
        --config configs/folder_transformer.py:openai/clip-vit-base-patch32
    python -m capjax.main --config configs/folder_transformer.py:./clip.safetensors ...

Weights come from where the config's encoder has them, `config.encoder.weights`. The file also holds
the encoder's fields, and how it wants its pixels.
"""

import sys

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from capjax.config import build, questions
from capjax.config.errors import ConfigError
from capjax.models.contract import PretrainedEncoder
from capjax.parts import ENCODERS
from capjax.pretrained.saved import About, save_encoder
from capjax.pretrained.weights import WeightsError


def convert_encoder(config: ConfigDict, to: str) -> None:
    """Writes the encoder that a config starts from.

    Raises:
      ConfigError: the config's encoder has no weights of a file.
      WeightsError: they can't be had, or do not fit; or `to` is no `.safetensors`.
    """
    if not questions.is_pretrained(config):
        names = [n for n in ENCODERS.names() if issubclass(ENCODERS.get(n), PretrainedEncoder)]
        raise ConfigError(
            f"config.encoder.name={config.encoder.name!r} starts from scratch; it must be one of "
            f"{', '.join(map(repr, names))}"
        )
    fields = questions.encoder_fields(config)
    about = About(fields.pop("name"), fields, build.resize(config.dataset))
    variables = build.pretrained_encoder(config)
    save_encoder(to, about, variables)
    print(f"wrote {to}: {about.name} of {config.encoder.weights}")


def main(argv: list[str]) -> None:
    """Reads the flags and converts."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; fields are --config.field=value")
    logging.set_verbosity(logging.WARNING)
    try:
        convert_encoder(flags.FLAGS.config, flags.FLAGS.to)
    except (ConfigError, WeightsError, OSError) as error:
        sys.exit(f"error: {error}")


def _define_flags() -> None:
    # Not on import: other command lines have flags of the same names.
    config_flags.DEFINE_config_file(
        "config", None, "A config with a pretrained encoder.", lock_config=True
    )
    flags.DEFINE_string("to", None, "The .safetensors file to write.")
    flags.mark_flags_as_required(["config", "to"])


if __name__ == "__main__":
    _define_flags()
    app.run(main)
