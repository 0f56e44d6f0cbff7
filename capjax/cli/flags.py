"""Command lines with a --config, by absl: parsing, one-line errors, and --help."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from capjax.cli.errors import ERROR, USAGE, fail
from capjax.cli.log import show_log
from capjax.cli.parts import define_parts, import_parts
from capjax.cli.python_file import PythonFileError, call_in_file, file_of
from capjax.config import describe, shipped
from capjax.config.upgrade import upgrade
from capjax.files.text import nearest

__all__ = ["ERROR", "USAGE", "define_config", "fail", "parse_flags", "run"]

# The config file of a run's folder.
_RUN_CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_config.py")
_HELP = ("--help", "-help", "-h")
_CONFIG = (
    "config file, or the name of a shipped config, for example shapes_transformer (`capjax "
    "configs` lists them); FILE:ARGUMENT or NAME:ARGUMENT passes its get_config() an argument"
)


def run(
    body: Callable[[], Any],
    define_flags: Callable[[], None],
    argv: Sequence[str] | None = None,
    *,
    program: str,
    doc: str,
) -> None:
    """Parses a command line with a --config into `flags.FLAGS`, and runs the command.

    Args:
      body: the command.
      define_flags: defines its flags; not at import, since other commands share the flags' names.
      argv: the command line after the program's name; None takes the process's.
      program: the command's name, for --help.
      doc: the command's description, for --help.

    Raises:
      SystemExit: always, with the exit status.
    """
    show_log()
    if argv is not None:
        sys.argv[1:] = argv  # ml_collections reads overrides of the config from there.
    before = set(flags.FLAGS)
    define_flags()
    if any(argument in _HELP for argument in sys.argv[1:]):
        import_parts(_values_of(sys.argv[1:], "parts"))
        own = [flags.FLAGS[name] for name in flags.FLAGS if name not in before]
        print(_help(program, doc, own, _values_of(sys.argv[1:], "config")), end="")
        sys.exit()
    app.run(lambda _: body(), argv=[program, *sys.argv[1:]], flags_parser=parse_flags)


def with_run(argv: Sequence[str], switches: Collection[str]) -> list[str]:
    """Gives a command line the --workdir and the --config of the run that it names.

    Args:
      argv: the command line. A run's folder in it becomes its --workdir. Without a --config it gets
        the config of the run in its --workdir.
      switches: flags without a value.

    Raises:
      SystemExit: there is no --config, and a folder that is no run.
    """
    argv = list(argv)
    has_config = bool(_values_of(argv, "config"))
    for place, (before, here) in enumerate(zip(["", *argv], argv, strict=False)):
        is_value = before.startswith("-") and "=" not in before and before not in switches
        if here.startswith("-") or is_value or _values_of(argv, "workdir"):
            continue
        if _is_run(here):
            argv[place] = f"--workdir={here}"
        elif not has_config:
            fail(f"{here} is no run: it has no config.json; a new one needs a --config")
    run_folders = [folder for folder in _values_of(argv, "workdir") if _is_run(folder)]
    if run_folders and not has_config:
        argv.insert(0, f"--config={_RUN_CONFIG}:{run_folders[0]}")
    return argv


def _is_run(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "config.json"))


def given_config() -> ConfigDict:
    """The config of the command line; one built on an older base config has today's fields."""
    config = flags.FLAGS.config
    try:
        return ConfigDict(upgrade(config.to_dict()))
    except (TypeError, ValueError):  # The command's own checks say which field is wrong.
        return config


def define_config() -> None:
    """Defines --config and --parts."""
    config_flags.DEFINE_config_file("config", None, _CONFIG, lock_config=True)
    flags.mark_flag_as_required("config")
    define_parts()


def parse_flags(argv: Sequence[str], known: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses a command line with an optional --config and its overrides: absl's `flags_parser`.

    Returns:
      The arguments that are not flags, with the program's name first, as absl does.

    Raises:
      SystemExit: of status 2, after one line on stderr.
    """
    if "parts" in known:
        import_parts(_values_of(argv, "parts"))
    given = _values_of(argv, "config")
    argv = [_resolved(argument, given) for argument in argv]
    if "config" in known and not given:
        or_run = ", or the folder of a run" if "mode" in known else ""
        names = ", ".join(shipped.summaries())
        fail(f"give --config FILE_OR_NAME{or_run}; the shipped configs are {names}", USAGE)
    try:
        for source in map(shipped.resolve, given):
            file = file_of(source)
            if file != _RUN_CONFIG:  # A config may import its neighbours.
                sys.path.append(os.path.dirname(os.path.abspath(file)))
            shipped.make_importable(file)
        rest = known(argv)
        if "config" in known and not isinstance(known["config"].value, ConfigDict):
            raise TypeError("--config gives no ConfigDict")
    except Exception as error:  # A config file may raise anything.
        # On one line, even if a name or a value has line breaks.
        fail(" ".join(_explain(list(argv), error).split()), USAGE)
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}; fields are --config.field=value", USAGE)
    return rest


def _values_of(argv: Sequence[str], name: str) -> list[str]:
    """The values that a command line gives to a flag."""
    values = []
    for here, after in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(f"--?{name}(?:=(.*))?", here, re.DOTALL):
            values.append(after if match[1] is None else match[1])
    return values


def _resolved(argument: str, sources: Sequence[str]) -> str:
    """Replaces a shipped config's name in an argument by its file, if it is one of `sources`."""
    flag, equals, value = argument.partition("=")
    if equals and flag in ("--config", "-config"):
        return f"{flag}={shipped.resolve(value)}"
    return shipped.resolve(argument) if argument in sources else argument


def _explain(argv: list[str], error: Exception) -> str:
    """Message of the error in a command line that can't be parsed."""
    for source in _values_of(argv, "config")[:1]:
        try:
            config = _read_config(source)
        except PythonFileError as found:
            return str(found)
        names = set(field_names(config))
        for field in _overrides(argv):
            if field not in names:
                return f"--config.{field}: there is no such field; {nearest(field, names)}"
    return str(error) or type(error).__name__


def _overrides(argv: list[str]) -> Iterator[str]:
    for argument in argv:
        if match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            yield match[1]


def field_names(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """Dotted names of all sections and fields."""
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from field_names(value, f"{prefix}{name}.")


def _read_config(source: str) -> ConfigDict:
    """Calls get_config of a file again; raises PythonFileError, naming its error."""
    file = file_of(source)
    if not os.path.isfile(file):
        names = shipped.summaries()
        name = os.path.splitext(os.path.basename(file))[0]
        hint = f"the shipped one is --config {name}" if name in names else nearest(name, names)
        raise PythonFileError(
            f"--config={source}: there is no file {file!r}; a config is a Python file or the name "
            f"of a shipped config: {hint}"
        )
    try:
        return call_in_file(source, "get_config", ConfigDict, like="configs/base.py")
    except PythonFileError as error:
        raise PythonFileError(f"--config={source}: {error}") from error


def _help(program: str, doc: str, own: Sequence[flags.Flag], sources: Sequence[str]) -> str:
    """The text of --help: the command's description and flags, and a given config's fields."""
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} --config CONFIG [--config.FIELD=VALUE ...] [options]",
        description=doc,
        epilog="`--config CONFIG --help` lists the config's fields.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for flag in own:
        # Without the notes that absl adds, since argparse adds its own.
        text = re.sub(r"^<.*?>:\s*|;\s*repeat this option(?s:.*)", "", flag.help or "")
        text = text.replace("%", "%%")
        if flag.boolean:
            parser.add_argument(f"--{flag.name}", action="store_true", help=text)
        else:
            default = f" (default: {flag.default})" if flag.default else ""
            choices = getattr(flag.parser, "enum_values", None)
            parser.add_argument(f"--{flag.name}", choices=choices, help=text + default)
    for source in map(shipped.resolve, sources[:1]):
        shipped.make_importable(file_of(source))
        try:
            config = _read_config(source)
        except PythonFileError as error:
            fail(" ".join(str(error).split()), USAGE)
        parser.epilog = f"fields of {sources[0]}:\n" + "\n".join(describe.lines(config))
    return parser.format_help()
