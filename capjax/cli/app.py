"""The command `capjax` with all its subcommands. Imports neither JAX nor TensorFlow.

capjax train --config shapes_transformer
capjax caption --workdir runs/shapes_transformer photo.jpg
"""

import dataclasses
import importlib
import sys
from collections.abc import Sequence

from capjax.cli.errors import USAGE, fail
from capjax.cli.process import run_command


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
      module: its function `main` takes the rest of the command line.
      about: its line in --help.
      arguments: placed before the user's arguments.
    """

    module: str
    about: str
    arguments: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("capjax.main", "train a captioner, or continue a run", ("--mode", "train")),
    "evaluate": Command(
        "capjax.main", "caption a whole split and score it", ("--mode", "evaluate")
    ),
    "caption": Command("capjax.caption", "caption image files, folders and URLs"),
    "serve": Command("capjax.cli.serve", "serve captions over HTTP, with a page for images"),
    "score": Command("capjax.cli.score", "score given captions by their log-probability"),
    "show": Command("capjax.cli.show", "print a dataset's statistics and draw examples"),
    "configs": Command("capjax.cli.configs", "list the shipped configs, or copy them"),
    "export": Command("capjax.cli.export", "write a run as an artefact, or for transformers"),
    "convert": Command("capjax.cli.convert_encoder", "write a pretrained encoder as one file"),
    "import-tutorial": Command(
        "capjax.cli.import_tutorial", "make a run of the PyTorch tutorial's checkpoint"
    ),
    "convert-tutorial": Command(
        "capjax.cli.convert_tutorial", "write that checkpoint as plain tensors, before the import"
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a subcommand; without `argv`, that of the process's own command line, and ends it.

    Raises:
      SystemExit: always, with its exit status.
    """
    if argv is None:
        run_command(lambda: main(sys.argv[1:]))
    name, *rest = argv or [""]
    if name in ("--help", "-h"):
        print(_help(), end="")
    elif name == "--version":
        print(f"capjax {importlib.import_module('capjax').__version__}")
    elif command := COMMANDS.get(name):
        sys.exit(importlib.import_module(command.module).main([*command.arguments, *rest]))
    else:
        wrong = f"there is no command {name!r}" if name else "a command is missing"
        fail(f"{wrong}; there are {', '.join(COMMANDS)}", USAGE)


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: capjax COMMAND ...",
            "",
            "Image captioning in JAX: train, decode, score, and see where the model looked.",
            "",
            "commands (`capjax COMMAND --help` lists a command's options):",
            *rows,
            "",
            "options:",
            f"  {'--version':{width}}  print the version",
            "",
        ]
    )
