"""Captions images with a trained model: files, folders, URLs, or names from standard input.

capjax caption --workdir runs/shapes_transformer photo.jpg holiday/ https://...
capjax caption --workdir runs/seed0 --workdir runs/seed1 --num_captions 3 photo.jpg
capjax caption --model Salesforce/blip-image-captioning-base photo.jpg
find . -name '*.jpg' | capjax caption --workdir runs/shapes_transformer --json -
"""

import argparse
import signal

from capjax.cli import attention, decoding_flags
from capjax.cli.average import add_average, check_average
from capjax.cli.compilation import add_compilation_cache
from capjax.cli.errors import Parser, reported, unread
from capjax.cli.log import show_log
from capjax.cli.parts import add_parts, import_parts
from capjax.cli.process import run_command, starting
from capjax.parts.check import fault
from capjax.parts.types import BatchSize

EXIT_STATUS = """\
exit status:
  0    every image has its caption
  1    an input could not be used, or the command failed; stderr names the error
  2    wrong usage
  128+N  stopped by signal N, with no line half-written: 130 by Ctrl-C, 143 by SIGTERM, 141 because
       standard output was closed
"""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="capjax caption",
        description=__doc__.split("\n")[0],
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images",
        nargs="+",
        help="image files, folders of them, or http(s) URLs; - reads such names from standard "
        "input, one per line, and captions them as they arrive",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--workdir",
        action="append",
        help="folder of a trained run; given again, the runs caption together, as an ensemble",
    )
    which.add_argument(
        "--model",
        metavar="DIR_OR_NAME",
        help="instead of a run, a captioner of transformers (BLIP, GIT, a ViT with a GPT-2): its "
        "folder, or its name on huggingface.co",
    )
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="folder of PEFT with low-rank adapters (LoRA) of the --model",
    )
    add_average(parser)
    parser.add_argument("--checkpoint", help="the run's: best (default), latest or a step")
    decoding_flags.add_arguments(parser)
    parser.add_argument(
        "--batch_size", type=_batch_size, help="most images at once (default: the model's)"
    )
    attention.add_arguments(parser)
    add_compilation_cache(parser)
    parser.add_argument(
        "--json", action="store_true", help="print JSON lines, also for images without a caption"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write JSON lines to FILE instead, each as soon as it is known; FILE.meta.json "
        "records the run and the settings",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue FILE: skip images with a caption there, retry those with an error",
    )
    add_parts(parser)
    arguments = parser.parse_args(argv)
    attention.check_arguments(parser, arguments)
    if arguments.model and arguments.checkpoint:
        parser.error("--checkpoint needs --workdir: a --model has one checkpoint")
    if arguments.adapter and not arguments.model:
        parser.error("--adapter needs --model: a run has its own adapters")
    check_average(parser, arguments)
    if arguments.resume and not arguments.output:
        parser.error("--resume needs --output FILE, which it continues")
    if arguments.images.count("-") > 1:
        parser.error("- reads standard input to its end; give it once")
    return arguments


def _batch_size(text: str) -> int:
    if message := fault(BatchSize, decoding_flags.positive(text)):
        raise argparse.ArgumentTypeError(f"{text!r} {message}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Captions the images; returns the exit status, see `EXIT_STATUS`."""
    show_log()
    arguments = parse_arguments(argv)
    import_parts(arguments.parts)
    with reported():
        try:
            # Imported here, so that --help is answered at once.
            with starting() as ready:
                from capjax.cli.caption_images import caption_images

                return caption_images(arguments, ready)
        except KeyboardInterrupt:  # Before the first batch.
            return 128 + signal.SIGINT
        except BrokenPipeError:
            return unread()


if __name__ == "__main__":
    run_command(main)
