"""The work of `capjax caption`, apart from its flags, since this imports JAX."""

import argparse
import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

from capjax.cli import attention, decoding_flags
from capjax.cli.captioner import load_model, load_run
from capjax.cli.errors import leave
from capjax.data.inputs import batches, expand, read_input, read_lines
from capjax.evaluate.caption_file import CaptionFile
from capjax.evaluate.lines import answer_row, json_line, printable, text_line
from capjax.evaluate.methods import Method
from capjax.evaluate.stream import caption_stream, picture_reader
from capjax.parallel import devices
from capjax.parallel.deadline import deadline
from capjax.parallel.signals import at_once
from capjax.run.ensemble import ensemble
from capjax.run.load import Run, made_by


class _Stop:
    """Records the first SIGTERM or Ctrl-C, so that the current batch is finished; a second exits.

    A batch that takes too long, such as the first one, which is compiled, is not waited for.

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
        self._deadline = deadline(lambda number: leave(128 + number))
        self._deadline.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._deadline.__exit__(*error)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.number = number
        signal.signal(number, at_once())


def caption_images(arguments: argparse.Namespace, ready: Callable[[], None]) -> int:
    """Captions the images of a command line; returns the exit status, see `capjax.caption`.

    Calls `ready` after the first captions.
    """
    devices.compilation_cache(arguments.compilation_cache)
    run = _load(arguments)
    attention.check_run(arguments, run.model.decoder)
    method = decoding_flags.method_of(arguments, run)
    with contextlib.ExitStack() as stack:
        file = None
        if arguments.output:
            made = made_by(run, method)
            if arguments.attended:
                made["attended"] = True
            file = CaptionFile(arguments.output, made, resume=arguments.resume)
            stack.enter_context(contextlib.closing(file))
        return _caption_all(arguments, run, method, file, stack.enter_context(_Stop()), ready)


def _load(arguments: argparse.Namespace) -> Run:
    if arguments.model:
        return load_model(arguments.model, arguments.adapter or "")
    runs = [load_run(workdir, arguments.checkpoint) for workdir in arguments.workdir]
    return ensemble(runs, arguments.average or "probabilities") if len(runs) > 1 else runs[0]


def _caption_all(
    arguments: argparse.Namespace,
    run: Run,
    method: Method,
    file: CaptionFile | None,
    stop: _Stop,
    ready: Callable[[], None],
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
        picture_reader(read_input, run.resize, thumbnail=draws),
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
            if part:
                ready()
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
