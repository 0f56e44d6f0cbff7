"""Shows the content of a dataset, before training.

    capjax show --config flickr8k_transformer --config.dataset.root=DIR

prints statistics of a split and draws random examples of it. Needs no accelerator.
"""

import os
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict

from capjax.cli.errors import reported
from capjax.cli.flags import define_config, given_config, run
from capjax.cli.process import run_command
from capjax.files.atomic import check_local
from capjax.files.errors import DataError


def show(config: ConfigDict, split: str, images: int, to: str) -> None:
    """Prints statistics of a split and draws examples that `config.seed` chooses.

    Raises:
      DataError: the dataset is missing or its captions do not fit the config.
      OSError: the PNG cannot be written.
    """
    # Imported here, so that --help is answered at once.
    import numpy as np

    from capjax.data.captions import encode_captions
    from capjax.data.describe import describe_captions, draw_examples
    from capjax.data.sections import check_images, open_captions, open_source, train_tokenizer
    from capjax.evaluate.figures import save_figure

    source = check_images(config.dataset, open_source(config.dataset, split))
    table = open_captions(config.dataset, source)
    if split == "train":
        train = table
    else:
        train = open_captions(config.dataset, open_source(config.dataset, "train"))
    try:
        tokenizer = train_tokenizer(config, train)
        encoded = encode_captions(
            table,
            tokenizer,
            max_length=config.dataset.max_length,
            over_length=config.dataset.over_length,
        )
    except ValueError as error:  # A field of the config.
        raise DataError(str(error)) from error
    print(f"{source.name}: {describe_captions(table, encoded, tokenizer)}")
    if note := source.selection.get("note"):
        print(note)
    random = np.random.Generator(np.random.Philox(key=config.seed))
    indices = random.permutation(len(source))[:images].tolist()
    save_figure(draw_examples(source, indices), to)
    print(f"wrote {to}")


def define_flags() -> None:
    """Defines the flags."""
    define_config()
    flags.DEFINE_string("split", "train", "Split to show.")
    # Matplotlib can't draw a taller figure.
    flags.DEFINE_integer(
        "images", 16, "Examples to draw, at random.", lower_bound=1, upper_bound=400
    )
    flags.DEFINE_string("to", None, "PNG of the examples; by default examples-<split>.png.")


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and shows the split."""
    run(_main, define_flags, argv, program="capjax show", doc=__doc__)


def _main() -> None:
    given = flags.FLAGS
    # A TFDS split may have characters that a file name can't have.
    name = "".join(c if c.isalnum() or c in "+-_" else "_" for c in given.split)
    to = given.to or f"examples-{name}.png"
    with reported():
        check_local(to)
        to = os.path.abspath(to)
        show(given_config(), given.split, given.images, to)


if __name__ == "__main__":
    run_command(main)
