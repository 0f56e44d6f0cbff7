"""Makes a run of the PyTorch Show-Attend-Tell tutorial's published checkpoint.

    capjax convert-tutorial BEST_checkpoint_coco.pth.tar --to tutorial.safetensors \
        --i_trust_this_file
    capjax import-tutorial --config coco_show_attend_tell --weights tutorial.safetensors \
        --word_map WORDMAP_coco.json --workdir runs/tutorial

Then `capjax caption`, `capjax evaluate` and `capjax.load` take it like any other run. The first
command executes the file that it converts; the second executes nothing.
"""

from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict

from capjax.cli.errors import reported
from capjax.cli.flags import define_config, given_config, run
from capjax.cli.process import run_command
from capjax.config.errors import ConfigError

# Fields of the tutorial's decoder that the shapes of its parameters do not determine.
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
      ConfigError: the config's decoder is not the tutorial's.
      WeightsError: the weights or the word map can't be used, or do not fit the config's model.
      WorkdirError: the folder holds a run already.
    """
    # Imported here, so that --help is answered at once.
    import jax
    import numpy as np

    from capjax.config import build, checks
    from capjax.models.captioner import Variables, split_frozen
    from capjax.pretrained.captioners.show_attend_tell import (
        read_tutorial,
        unreachable_words,
        word_map_tokenizer,
    )
    from capjax.pretrained.weights import check_variables
    from capjax.run.workdir import Workdir, WorkdirError
    from capjax.train.state import init_state

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
            f"{len(lost)} words of {word_map} have characters that the tokenizer strips from "
            f"captions; they can be generated but not trained: {', '.join(lost[:5])}"
        )
    print(f"wrote {directory}, {tokenizer.vocab_size} tokens")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and imports."""
    run(_main, define_flags, argv, program="capjax import-tutorial", doc=__doc__)


def _main() -> None:
    logging.set_verbosity(logging.WARNING)
    given = flags.FLAGS
    with reported():
        import_tutorial(given_config(), given.weights, given.word_map, given.workdir)


def define_flags() -> None:
    """Defines the flags."""
    define_config()
    flags.DEFINE_string("weights", None, "The converted checkpoint, .safetensors.")
    flags.DEFINE_string("word_map", None, "The tutorial's WORDMAP_*.json.")
    flags.DEFINE_string("workdir", None, "Folder of the new run.")
    flags.mark_flags_as_required(["weights", "word_map", "workdir"])


if __name__ == "__main__":
    run_command(main)
