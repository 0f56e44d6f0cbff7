"""What the command lines share: a mistake in one is one line, and exit statuses."""

import os
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict

from capjax.files.text import nearest

# Exit statuses beside 0: something went wrong, and the command line itself is wrong.
ERROR, USAGE = 1, 2


def fail(message: str, status: int = ERROR) -> NoReturn:
    """Ends the program with `error: ...` on stderr."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def parse_flags(argv: Sequence[str], known: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses a command line that may have a --config and fields of it: `flags_parser` of absl.

    Returns:
      What is no flag, as absl does: the program's name first.

    Raises:
      SystemExit: of status 2, after one line on stderr; or what --help has absl do.
    """
    try:
        rest = known(argv)
        if "config" in known and not isinstance(known["config"].value, ConfigDict):
            raise TypeError("--config gives no ConfigDict")
    except Exception as error:  # A config file may raise anything.
        # On one line, whatever a name or a value holds.
        fail(" ".join(_explain(list(argv), error).split()), USAGE)
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}; fields are --config.field=value", USAGE)
    return rest


def _explain(argv: list[str], error: Exception) -> str:
    """What is wrong with a command line that can't be parsed."""
    source = _config_of(argv)
    if source is not None:
        try:
            config = _read_config(source)
        except _ConfigFileError as found:
            return str(found)
        names = set(field_names(config))
        for field in _overrides(argv):
            if field not in names:
                return f"--config.{field}: there is no such field; {nearest(field, names)}"
    return str(error) or type(error).__name__


def _config_of(argv: list[str]) -> str | None:
    """The value of --config."""
    for here, after in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch("--?config(?:=(.*))?", here, re.DOTALL):
            return after if match[1] is None else match[1]
    return None


def _overrides(argv: list[str]) -> Iterator[str]:
    for argument in argv:
        if match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            yield match[1]


def field_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Every section and field."""
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from field_names(value, f"{prefix}{name}.")


class _ConfigFileError(ValueError):
    pass


def _read_config(source: str) -> ConfigDict:
    """What get_config of a file gives, once more, to find what is wrong with it."""
    file, colon, argument = source.partition(":")
    if not os.path.isfile(file):
        raise _ConfigFileError(
            f"--config={source}: there is no file {file!r}; a config is a Python file such as "
            "configs/shapes_transformer.py"
        )
    try:
        make: Any = runpy.run_path(file).get("get_config")
        config = make(*([argument] if colon else [])) if make else None
    except Exception as error:
        raise _ConfigFileError(f"--config={source}: {error_in(file, error)}") from error
    if not isinstance(config, ConfigDict):
        what = "has no get_config()" if make is None else f"gives {config!r:.80}"
        raise _ConfigFileError(
            f"--config={source}: a config file has a function get_config() that gives a "
            f"ConfigDict, as configs/base.py, and this one {what}"
        )
    return config


def error_in(file: str, error: Exception) -> str:
    """An error of a config file and its line; of a ValueError, which may be an answer, its text."""
    text = str(error)
    if not isinstance(error, ValueError):
        text = f"{type(error).__name__}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    same = os.path.abspath(file)
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == same]
    return f"{text} (line {lines[-1]})" if lines else text
