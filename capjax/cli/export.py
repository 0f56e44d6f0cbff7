"""Writes a captioner for use elsewhere: for transformers, as an artefact, or as ONNX.

    capjax export --workdir runs/shapes_vit_gpt2 --to captioner
    capjax export --format artefact --workdir runs/shapes_transformer --to captioner

As `transformers` its class there, such as `VisionEncoderDecoderModel`, `AutoTokenizer` and
`AutoImageProcessor` load the folder, and `generate` makes the captions of `capjax caption`. The
run's encoder, adapter and decoder must exist in transformers: see
`capjax.pretrained.captioners.exportable`.

As `peft` a run with config.lora writes its adapters alone: see docs/lora.md.

As `artefact` any captioner is one compiled function, with its search, that needs no capjax; as
`onnx` it is an encoder and a step of its decoder, which need no JAX either. See docs/serving.md.
"""

import argparse
import dataclasses
import importlib
from collections.abc import Callable

from capjax.artefact import choices
from capjax.cli import decoding_flags
from capjax.cli.errors import Parser, reported
from capjax.cli.log import show_log
from capjax.cli.parts import add_parts, import_parts
from capjax.cli.process import run_command


@dataclasses.dataclass(frozen=True)
class Format:
    """A form that a captioner is written in.

    Attributes:
      about: its line in --help.
      write: "module:function" of the parsed arguments; writes the folder and says what it wrote.
      flags: those that no other format takes; their default is None.
    """

    about: str
    write: str
    flags: tuple[str, ...] = ()

    @property
    def writer(self) -> Callable[[argparse.Namespace], None]:
        """The function. Imported late, so that --help is answered at once."""
        module, _, name = self.write.partition(":")
        return getattr(importlib.import_module(module), name)


_OF_CAPTIONS = ("scores_split", *decoding_flags.NAMES)
FORMATS = {
    "transformers": Format(
        "a captioner of Hugging Face's transformers", "capjax.cli.export_formats:transformers"
    ),
    "peft": Format(
        "the low-rank adapters of a run, in the format of Hugging Face's PEFT",
        "capjax.cli.export_formats:peft",
    ),
    "artefact": Format(
        "one function from pixels to captions, with a runner that needs JAX alone",
        "capjax.cli.export_formats:artefact",
        ("weights", "platforms", "attention", *_OF_CAPTIONS),
    ),
    "onnx": Format(
        "encoder and decoder step as ONNX, with a runner that needs onnxruntime",
        "capjax.cli.export_formats:onnx",
        _OF_CAPTIONS,
    ),
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="capjax export",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats:\n" + "\n".join(f"  {n:13} {f.about}" for n, f in FORMATS.items()),
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--workdir", help="folder of a trained run")
    which.add_argument(
        "--model",
        metavar="DIR_OR_NAME",
        help="instead of a run, a captioner of transformers: its folder, or its name on "
        "huggingface.co",
    )
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--checkpoint", help="the run's: best (default), latest or a step")
    parser.add_argument("--format", default="transformers", choices=FORMATS, help="see below")
    group = parser.add_argument_group("artefact and onnx", "onnx has --scores_split alone.")
    group.add_argument(
        "--weights", choices=choices.WEIGHTS, help=f"their type (default: {choices.WEIGHTS[0]})"
    )
    group.add_argument(
        "--platforms",
        type=_platforms,
        metavar="NAMES",
        help=f"that it runs on: some of {', '.join(choices.PLATFORMS)}, with commas between "
        f"(default: {','.join(choices.USUAL_PLATFORMS)})",
    )
    group.add_argument(
        "--attention", action="store_const", const=True, help="also return attention maps"
    )
    group.add_argument(
        "--scores_split",
        metavar="SPLIT",
        help="caption this split of the run's dataset with the artefact and state the scores in it",
    )
    decoding_flags.add_arguments(parser)
    add_parts(parser)
    arguments = parser.parse_args(argv)
    if arguments.model and arguments.checkpoint:
        parser.error("--checkpoint needs --workdir: a --model has one checkpoint")
    if arguments.model and arguments.scores_split:
        parser.error("--scores_split needs --workdir: a --model has no dataset")
    for name, other in FORMATS.items():
        taken = FORMATS[arguments.format].flags
        for flag in other.flags:
            if flag not in taken and getattr(arguments, flag) is not None:
                parser.error(f"--{flag} is of --format {name}")
    return arguments


def _platforms(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not {*names} <= {*choices.PLATFORMS}:
        there = ", ".join(choices.PLATFORMS)
        raise argparse.ArgumentTypeError(f"{text!r} must be some of {there}")
    return names


def main(argv: list[str] | None = None) -> None:
    """Reads the flags and exports."""
    show_log()
    arguments = parse_arguments(argv)
    import_parts(arguments.parts)
    with reported():
        FORMATS[arguments.format].writer(arguments)


if __name__ == "__main__":
    run_command(main)
