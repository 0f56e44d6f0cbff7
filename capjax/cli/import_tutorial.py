"""Makes a run of the PyTorch Show-Attend-Tell tutorial's published checkpoint.

    python -m capjax.pretrained.convert_show_attend_tell BEST_checkpoint_coco.pth.tar \
        --to tutorial.safetensors --i_trust_this_file
    python -m capjax.import_tutorial --config configs/coco_show_attend_tell.py \
        --weights tutorial.safetensors --word_map WORDMAP_coco.json --workdir runs/tutorial

Then `capjax.caption`, `capjax.load` and `--mode evaluate` take it as any other run. The first
command executes the file that it converts; the second executes nothing.
"""

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from capjax.cli.flags import fail, parse_flags
from capjax.config import build, checks
from capjax.config.errors import ConfigError
from capjax.models.captioner import Variables, split_frozen
from capjax.pretrained.captioners.show_attend_tell import (
    read_tutorial,
    unreachable_words,
    word_map_tokenizer,
)
from capjax.pretrained.weights import WeightsError, check_variables
from capjax.run.workdir import Workdir, WorkdirError
from capjax.train.state import init_state

# What shapes do not tell.
_DECODER = {
    "name": "bahdanau",
    "cell": "lstm",
    "attention": "soft",
    "attention_activation": "relu",
    "initial_state": "mean",
    "gate": "vector",
    "output": "linear",
}


def import_tutorial(config: ConfigDict, weights: str, word_map: str, directory: str) -> None:
    """Writes a run with the tutorial's parameters at step 0.

    Raises:
      WeightsError: the weights or the word map can't be used, or do not fit the config's model.
      WorkdirError: the folder holds a run already.
    """
    checks.check(config)
    wrong = [name for name, value in _DECODER.items() if config.decoder.get(name) != value]
    if wrong:
        raise ConfigError(
            "the tutorial's decoder needs "
            + ", ".join(f"config.decoder.{name}={_DECODER[name]!r}" for name in wrong)
        )
    tokenizer = word_map_tokenizer(word_map)
    model = build.captioner(config, tokenizer)
    encoder, decoder = read_tutorial(weights)
    variables: Variables = {
        "params": {"encoder": encoder["params"], "decoder": decoder["params"]},
        "batch_stats": {"encoder": encoder["batch_stats"]},
    }
    shape = build.resize(config.dataset).shape
    like = jax.eval_shape(lambda: model.init_variables(jax.random.key(0), shape))
    check_variables(variables, like, weights)
    workdir = Workdir(directory)
    with workdir.checkpoints(config) as checkpoints:
        if checkpoints.steps():
            raise WorkdirError(f"{directory} holds a run; give another --workdir")
        params, frozen = split_frozen(variables, *build.frozen_parts(config))
        workdir.save(config, tokenizer, {"tokenizer": tokenizer.fingerprint})
        workdir.save_frozen(frozen)
        state = init_state(params, build.optimizer(config), ema=config.ema_decay > 0)
        state = jax.tree.map(np.asarray, state)
        checkpoints.save(state, {"best": None, "waited": 0}, None)
    if lost := unreachable_words(tokenizer):
        print(
            f"{len(lost)} words of {word_map} have signs that captions lose before they are "
            f"encoded; they can be said but not trained on: {', '.join(lost[:5])}"
        )
    print(f"wrote {directory}, {tokenizer.vocab_size} tokens")


def main(argv: list[str]) -> None:
    """Reads the flags and imports."""
    del argv  # Flags alone, says `parse_flags`.
    logging.set_verbosity(logging.WARNING)
    given = flags.FLAGS
    try:
        import_tutorial(given.config, given.weights, given.word_map, given.workdir)
    except (ConfigError, WeightsError, WorkdirError) as error:
        fail(str(error))


def _define_flags() -> None:
    # Not on import: other command lines have flags of the same names.
    config_flags.DEFINE_config_file(
        "config", None, "configs/coco_show_attend_tell.py, or one like it.", lock_config=True
    )
    flags.DEFINE_string("weights", None, "The converted checkpoint, .safetensors.")
    flags.DEFINE_string("word_map", None, "The tutorial's WORDMAP_*.json.")
    flags.DEFINE_string("workdir", None, "Folder of the run that is made.")
    flags.mark_flags_as_required(["config", "weights", "word_map", "workdir"])


if __name__ == "__main__":
    _define_flags()
    app.run(main, flags_parser=parse_flags)
