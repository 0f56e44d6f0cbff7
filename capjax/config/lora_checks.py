"""Checks of the section `lora`, before training starts."""

from flax import traverse_util
from ml_collections import ConfigDict

from capjax.config import build, questions
from capjax.config.errors import ConfigError
from capjax.models.lora import is_adapter, projections_of
from capjax.models.lora_fields import Lora

# What else decides which parameters train, with the value that leaves it to the adapters.
_OTHERS = {"encoder.trainable": (), "decoder.frozen": False, "word_vectors.frozen": False}


def check_lora(config: ConfigDict, lora: Lora) -> None:
    """Raises ConfigError, naming the field, where adapters do not fit the rest of their config."""
    rank = f"config.lora.rank={lora.rank}"
    for field, value in _OTHERS.items():
        section, name = field.split(".")
        if (found := config[section].get(name, value)) != value:
            raise ConfigError(
                f"config.{field}={found!r} does not go with {rank}, with which adapters train and "
                f"nothing else: set it to {value!r}"
            )
    if config.optimizer.kind == "muon":
        raise ConfigError(
            f"config.optimizer.kind='muon' does not go with {rank}: it orthogonalises kernels, and "
            "none train; 'adamw' does"
        )
    parts = {part for part in questions.PARTS if part != "adapter" or part in config}
    if not parts <= {*questions.init_parts(config)} or not config.init_tokenizer:
        raise ConfigError(
            f"{rank} adapts a captioner that there is, of which no parameter stays random: give "
            "config.init_from, with config.init_parts=('all',) and config.init_tokenizer=True"
        )
    if questions.is_cached(config) and lora.adapts("encoder"):
        raise ConfigError(
            f"config.encoder.cache keeps features of a frozen encoder, and config.lora.projections="
            f"{config.lora.projections} are the encoder's, too: set --config.encoder.cache=, or "
            "name the decoder's alone, as in 'decoder/query'"
        )
    _check_projections(config, lora)


def _check_projections(config: ConfigDict, lora: Lora) -> None:
    """Raises ConfigError for projections that the model lacks, and for a CNN's."""
    if not lora.projections:
        raise ConfigError("config.lora.projections=() leaves nothing to train: name one or more")
    model = build.captioner_of(config, vocab_size=1)
    shapes = traverse_util.flatten_dict(dict(build.shapes(config, model)["params"]), sep="/")
    kernels = {
        name.rpartition("/")[0]: leaf for name, leaf in shapes.items() if name.endswith("/kernel")
    }
    is_cnn = any(leaf.ndim == 4 for name, leaf in kernels.items() if name.startswith("encoder/"))
    if is_cnn and lora.adapts("encoder"):
        raise ConfigError(
            f"config.lora.projections={lora.projections} are the encoder's, too, and "
            f"config.encoder.name={config.encoder.name!r} is a CNN, for which there are no "
            "adapters: name the decoder's alone, as in ('decoder/query', 'decoder/value')"
        )
    own = [name.split("/") for name in shapes if is_adapter(name)]
    adapted = {name for part, *_, p, _ in own for name in (p, f"{part}/{p}")}
    for name in lora.projections:
        if name not in adapted:
            there = {
                f"{layer.partition('/')[0]}/{p}"
                for layer, kernel in kernels.items()
                if kernel.ndim == 2 and not (is_cnn and layer.startswith("encoder/"))
                for p in projections_of(layer.rpartition("/")[2])
            }
            raise ConfigError(
                f"config.lora.projections has {name!r}, which this captioner lacks; it has "
                f"{', '.join(sorted(there))}, also without the part's name"
            )
