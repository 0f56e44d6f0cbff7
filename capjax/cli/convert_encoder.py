"""Writes a pretrained encoder as one `.safetensors` file, which is read without other libraries.

    capjax convert --to clip.safetensors --config folder_transformer:openai/clip-vit-base-patch32
    capjax train --config folder_transformer:./clip.safetensors ...

The weights are those of `config.encoder.weights`. The file also holds the encoder's fields and its
preprocessing of pixels.
"""

from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict

from capjax.cli.errors import reported
from capjax.cli.flags import define_config, given_config, run
from capjax.cli.process import run_command
from capjax.config.errors import ConfigError
from capjax.parts import ENCODERS


def convert_encoder(config: ConfigDict, to: str) -> None:
    """Writes the pretrained encoder of a config.

    Raises:
      ConfigError: the config's encoder is not pretrained.
      WeightsError: the weights can't be loaded, or do not fit; or `to` is not a `.safetensors`.
    """
    # Imported here, so that --help is answered at once.
    from capjax.config import build, questions
    from capjax.models.contract import PretrainedEncoder
    from capjax.pretrained.saved import About, save_encoder

    if not questions.is_pretrained(config):
        names = [n for n in ENCODERS.names() if issubclass(ENCODERS.get(n), PretrainedEncoder)]
        raise ConfigError(
            f"config.encoder.name={config.encoder.name!r} is not pretrained; it must be one of "
            f"{', '.join(map(repr, names))}"
        )
    fields = questions.encoder_fields(config)
    about = About(fields.pop("name"), fields, build.resize(config.dataset))
    variables = build.pretrained_encoder(config)
    save_encoder(to, about, variables)
    print(f"wrote {to}: {about.name} of {config.encoder.weights}")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and converts."""
    run(_main, define_flags, argv, program="capjax convert", doc=__doc__)


def _main() -> None:
    logging.set_verbosity(logging.WARNING)
    with reported():
        convert_encoder(given_config(), flags.FLAGS.to)


def define_flags() -> None:
    """Defines the flags."""
    define_config()
    flags.DEFINE_string("to", None, "The .safetensors file to write.")
    flags.mark_flag_as_required("to")


if __name__ == "__main__":
    run_command(main)
