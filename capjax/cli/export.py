"""Writes a trained run as a captioner of Hugging Face's transformers.

    capjax export --workdir runs/shapes_vit_gpt2 --to captioner

Its class there, such as `VisionEncoderDecoderModel`, `AutoTokenizer` and `AutoImageProcessor` load
the folder, and `generate` makes the captions of `capjax caption`. The run's encoder, adapter and
decoder must exist in transformers: see `capjax.pretrained.captioners.exportable`.
"""

import argparse
from typing import cast

from capjax.cli.errors import reported
from capjax.cli.log import show_log
from capjax.cli.parts import add_parts, import_parts
from capjax.cli.process import run_command

_LOAD = """\
from transformers import AutoImageProcessor, AutoTokenizer, {1}
model = {1}.from_pretrained({0!r})
processor, tokenizer = (kind.from_pretrained({0!r}) for kind in (AutoImageProcessor, AutoTokenizer))
"""


def export(workdir: str, to: str, checkpoint: str | int = "best") -> None:
    """Writes the folder `to`, and prints its files and the code that loads it.

    Args:
      workdir: the run's folder.
      to: a new or empty folder.
      checkpoint: see `capjax.load`.

    Raises:
      ExportError: transformers has no such captioner, or `to` is not empty.
      WorkdirError: the run can't be loaded.
    """
    # Imported here, so that --help is answered at once.
    from capjax.config import build
    from capjax.models.captioner import Captioner
    from capjax.pretrained.captioners.export_captioner import check_free, write_captioner
    from capjax.pretrained.captioners.exportable import exportable
    from capjax.run.generation import generation_of
    from capjax.run.load import load

    check_free(to)
    run = load(workdir, checkpoint)
    generation = generation_of(build.beam_search(run.config.decoding), run.tokenizer)
    captioner = exportable(
        cast(Captioner, run.model),  # A workdir holds no ensemble.
        run.variables,
        run.tokenizer,
        build.resize(run.config.dataset),
        generation,
        run.config.get("label_smoothing", 0.0),
    )
    names = write_captioner(captioner, to)
    print(f"wrote {to} of {workdir}, step {run.step}: {', '.join(names)}")
    family = captioner.family
    print(_LOAD.format(to, family.architecture), end="")
    if not family.reads_settings:
        print("# Its generate reads no settings: give it those of generation_config.json.")
    if prompt := run.config.decoding.prompt:
        print(f"# Captions begin with {prompt!r}, whose ids are an input of generate: input_ids.")


def main(argv: list[str] | None = None) -> None:
    """Reads the flags and exports."""
    show_log()
    parser = argparse.ArgumentParser(prog="capjax export", description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="folder of a trained run")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    add_parts(parser)
    arguments = parser.parse_args(argv)
    import_parts(arguments.parts)
    with reported():
        export(arguments.workdir, arguments.to, arguments.checkpoint)


if __name__ == "__main__":
    run_command(main)
