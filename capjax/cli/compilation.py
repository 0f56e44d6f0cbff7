"""The option for JAX's compiled programs, of commands that take no config."""

import argparse

from capjax.parallel.defaults import COMPILATION_CACHE


def add_compilation_cache(parser: argparse.ArgumentParser) -> None:
    """Adds --compilation_cache, which `devices.compilation_cache` takes."""
    parser.add_argument(
        "--compilation_cache",
        default=COMPILATION_CACHE,
        help="folder of JAX's compiled programs (default: %(default)s); empty keeps none",
    )
