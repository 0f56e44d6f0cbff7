"""Serves captions over HTTP: a page to drop an image on, and JSON for programs.

    capjax serve runs/shapes_transformer
    capjax serve runs/seed0 Salesforce/blip-image-captioning-base --port 8080

See docs/serving.md.
"""

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from capjax.cli.compilation import add_compilation_cache
from capjax.cli.decoding_flags import positive
from capjax.cli.errors import Parser, fail, reported
from capjax.cli.log import show_log
from capjax.cli.parts import add_parts, import_parts
from capjax.cli.process import run_command, starting
from capjax.parallel.signals import end_at_signals

_NEEDED = ("starlette", "uvicorn", "python_multipart")
# A clients' program is not kept on disk, whose space it would fill.
_NEVER = 1e9


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(prog="capjax serve", description=__doc__.split("\n")[0])
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="folder of a trained run or of an artefact, or a captioner of transformers: its "
        "folder, or its name on huggingface.co; clients name it by the last part",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, for this machine alone); 0.0.0.0 is all",
    )
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0 is any")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest or a step")
    limits = parser.add_argument_group("limits", "What is more is refused with a sentence.")
    for name, default, text in (
        ("batch_size", 16, "most images that are captioned at once"),
        ("images", 16, "most images of a request"),
        ("mebibytes", 32, "most MiB of a request; all together may hold eight times as many"),
        ("seconds", 30, "most seconds until a request is read and answered"),
        ("queue", 128, "most images that wait"),
        ("connections", 128, "most open connections"),
        ("most_beams", 10, "most beams, and captions of an image, that a client can set"),
        ("most_length", 64, "most tokens of a caption that a client can set"),
        ("settings", 8, "different settings of clients whose compiled programs are kept"),
        ("threads", min(8, os.cpu_count() or 1), "threads that decode images"),
    ):
        limits.add_argument(
            f"--{name}", type=positive, default=default, metavar="N", help=f"{text} ({default})"
        )
    add_compilation_cache(parser)
    add_parts(parser)
    return parser.parse_args(argv)


def serve(arguments: argparse.Namespace, ready: Callable[[], None]) -> NoReturn:
    """Serves until a signal, and ends the process with status 0; calls `ready` when it can."""
    # Imported here, so that --help is answered at once.
    import jax

    from capjax.parallel import devices
    from capjax.serve import page
    from capjax.serve.batching import Batcher
    from capjax.serve.open import open_models
    from capjax.serve.requests import Limits
    from capjax.serve.server import Server, listening

    log = logging.getLogger("capjax.serve")
    # Before the models are read, which takes seconds: the port may be in use.
    listener = listening(arguments.host, arguments.port)
    devices.compilation_cache(arguments.compilation_cache)
    print(f"reading {', '.join(arguments.models)}", flush=True)
    models = open_models(
        arguments.models,
        checkpoint=arguments.checkpoint,
        most_beams=arguments.most_beams,
        most_length=arguments.most_length,
    )

    def warm() -> None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _NEVER)
        log.info("compiled for batches of %d", arguments.batch_size)

    print("compiling for one image; larger batches follow while it serves", flush=True)
    batcher = Batcher(
        models,
        batch_size=arguments.batch_size,
        kept=arguments.settings,
        usual=page.usual,
        warm=warm,
    )
    ready()
    size = arguments.mebibytes * 2**20
    limits = Limits(
        bytes=size,
        images=arguments.images,
        seconds=arguments.seconds,
        queue=max(arguments.queue, arguments.images),
        held=8 * size,
        connections=arguments.connections,
    )
    server = Server(models, batcher, limits, num_threads=arguments.threads)
    server.run([listener])
    # What clients asked for may be compiling, and all that was taken is answered.
    sys.stdout.flush()
    os._exit(0)


def main(argv: list[str] | None = None) -> NoReturn:
    """Reads the flags and serves."""
    show_log()
    arguments = parse_arguments(argv)
    end_at_signals()
    if missing := [name for name in _NEEDED if not importlib.util.find_spec(name)]:
        fail(f"capjax serve needs {', '.join(missing)}: pip install {' '.join(missing)}")
    import_parts(arguments.parts)
    with reported(), starting() as ready:
        serve(arguments, ready)


if __name__ == "__main__":
    run_command(main)
