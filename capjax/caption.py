"""Captions images with a trained model: files, folders, URLs, or names from standard input.

capjax caption --workdir runs/shapes_transformer photo.jpg holiday/ https://...
capjax caption --model ydshieh/vit-gpt2-coco-en photo.jpg
find . -name '*.jpg' | capjax caption --workdir runs/shapes_transformer --json -
"""

import argparse
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from capjax.cli import attention
from capjax.cli.errors import leave, reported, unread
from capjax.cli.log import show_log
from capjax.cli.parts import add_parts, import_parts
from capjax.config import build
from capjax.config.decoding import SAMPLING, choose_method
from capjax.data.inputs import batches, expand, read_input, read_lines
from capjax.evaluate.caption_file import CaptionFile
from capjax.evaluate.captioning import Method
from capjax.evaluate.lines import answer_row, json_line, printable, text_line
from capjax.evaluate.stream import caption_stream, picture_reader
from capjax.pretrained.captioners.published import is_published
from capjax.run.load import Run, load, made_by
from capjax.run.workdir import Workdir, WorkdirError

# Options that are fields of `config.decoding`.
_DECODING = ("num_beams", "length_penalty", "max_length", "seed", *SAMPLING)
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
    parser = argparse.ArgumentParser(
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
    which.add_argument("--workdir", help="folder of a trained run")
    which.add_argument(
        "--model",
        metavar="DIR_OR_NAME",
        help="instead of a run, a ViT with a GPT-2 of transformers: its folder, or its name on "
        "huggingface.co",
    )
    parser.add_argument("--checkpoint", help="the run's: best (default), latest or a step")
    parser.add_argument(
        "--num_beams", "--beam_size", type=int, help="beams; 1 is greedy (default: the model's)"
    )
    parser.add_argument("--length_penalty", type=float, help="default: the model's")
    parser.add_argument("--max_length", type=int, help="most tokens (default: the model's)")
    parser.add_argument(
        "--temperature", type=float, help="sample at this temperature instead; 0 is greedy"
    )
    parser.add_argument("--top_k", type=_positive, help="sample from the K likeliest tokens")
    parser.add_argument(
        "--top_p", type=float, help="sample from the likeliest tokens that have this probability"
    )
    parser.add_argument(
        "--min_p",
        type=float,
        help="sample from tokens with at least this share of the likeliest one's probability",
    )
    parser.add_argument("--seed", type=int, help="seed of the samples (default: the model's)")
    parser.add_argument(
        "--batch_size", type=_positive, help="most images at once (default: the model's)"
    )
    attention.add_arguments(parser)
    parser.add_argument(
        "--compilation_cache",
        default=build.COMPILATION_CACHE,
        help="folder of JAX's compiled programs (default: %(default)s); empty keeps none",
    )
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
    if arguments.resume and not arguments.output:
        parser.error("--resume needs --output FILE, which it continues")
    if arguments.images.count("-") > 1:
        parser.error("- reads standard input to its end; give it once")
    return arguments


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of 1 or more")
    return int(text)


class _Stop:
    """Records the first SIGTERM or Ctrl-C, so that the current batch is finished; a second exits.

    Attributes:
      number: the signal's number; 0 until one arrives.
    """

    number = 0

    def __enter__(self) -> "_Stop":
        # A signal that the shell ignores for a background job stays ignored.
        signals = [
            number
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) != signal.SIG_IGN
        ]
        self._before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)


def main(argv: list[str] | None = None) -> int:
    """Captions the images; returns the exit status, see `EXIT_STATUS`."""
    show_log()
    arguments = parse_arguments(argv)
    import_parts(arguments.parts)
    build.compilation_cache(arguments.compilation_cache)
    with reported():
        try:
            return _caption(arguments)
        except KeyboardInterrupt:  # Before the first batch.
            return 128 + signal.SIGINT
        except BrokenPipeError:
            return unread()


def _caption(arguments: argparse.Namespace) -> int:
    run = _load(arguments)
    method = choose_method(run.config, **{name: getattr(arguments, name) for name in _DECODING})
    attention.check_run(arguments, run.model.decoder)
    with contextlib.ExitStack() as stack:
        file = None
        if arguments.output:
            made = made_by(run, method)
            if arguments.attended:
                made["attended"] = True
            file = CaptionFile(arguments.output, made, resume=arguments.resume)
            stack.enter_context(contextlib.closing(file))
        return _caption_all(arguments, run, method, file, stack.enter_context(_Stop()))


def _load(arguments: argparse.Namespace) -> Run:
    """Loads the run or model; raises WorkdirError also if one is given as the other."""
    source = arguments.workdir or arguments.model
    published = is_published(source)
    if arguments.model and not published:
        raise WorkdirError(
            f"--model {source} is no captioner of transformers, whose config.json has a "
            "model_type; give a run's folder as --workdir"
        )
    if arguments.workdir and published and os.path.exists(source):
        raise WorkdirError(f"--workdir {source} is a captioner of transformers: give it as --model")
    if arguments.workdir:
        Workdir(source).load_config()  # A missing workdir must not be looked up on huggingface.co.
    return load(source, arguments.checkpoint or "best")


def _caption_all(
    arguments: argparse.Namespace,
    run: Run,
    method: Method,
    file: CaptionFile | None,
    stop: _Stop,
) -> int:
    done = file.done if file else ()
    names: Iterable[str | None] = _names(arguments.images)
    count = None
    if "-" not in arguments.images:
        names = list(names)
        count = sum(name not in done for name in names)
    size = run.batch_shape(arguments.batch_size, count)
    draws = bool(arguments.attention)
    answers = caption_stream(
        batches(names, size, done),
        picture_reader(read_input, build.resize(run.config.dataset), thumbnail=draws),
        functools.partial(
            run.caption_batches, method=method, attention=draws or arguments.attended
        ),
        size=size,
        num_threads=run.config.dataset.num_threads,
        attended=arguments.attended,
    )
    failed = False
    # On a terminal only: in a log file a progress bar is a thousand lines.
    with tqdm(total=count, unit="image", disable=None) as bar:
        for part in answers:
            for answer in part:
                if answer.error:
                    failed = True
                    with bar.external_write_mode(file=sys.stderr):
                        print(f"error: {printable(str(answer.error))}", file=sys.stderr)
                if draws and answer.caption:
                    # Before the line is written, since --resume skips images that have a line.
                    attention.draw(arguments, answer)
                if file:
                    file.write(answer_row(answer))
                elif arguments.json:
                    _print(bar, json_line(answer_row(answer)))
                elif answer.caption:
                    _print(bar, text_line(answer))
            bar.update(len(part))
            if stop.number:
                return 128 + stop.number
    return int(failed)


def _print(bar: tqdm, line: bytes) -> None:
    with bar.external_write_mode(file=sys.stdout):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _names(images: list[str]) -> Iterator[str | None]:
    for name in images:
        yield from expand(read_lines(sys.stdin.fileno()) if name == "-" else [name])


if __name__ == "__main__":
    leave(main())
