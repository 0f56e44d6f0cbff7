"""Every documented command in a small form on the recorded runs, and what is recorded of each.

    python -m tests.compatibility.commands [NAME ... | --missing]

writes `commands.json`; it is made by the code of commit c32e60f.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.compatibility import runs
from tests.compatibility.command_list import COMMANDS, Command
from tests.helpers.warm import Warm

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).parent / "commands.json"
PLACES = {
    "configs": str(Path(__file__).parent / "small_configs.py"),
    "sweep": str(Path(__file__).parent / "small_sweep.py"),
    "root": str(ROOT),
}


# What most commands import; nothing of this repository, nor TensorFlow, which few need.
_LIBRARIES = ("absl.app", "einops", "flax.linen", "h5py", "jax", "matplotlib.figure")
_LIBRARIES += ("ml_collections.config_flags", "optax", "orbax.checkpoint", "PIL.Image")
_LIBRARIES += ("tensorboardX", "tokenizers", "tqdm")


def start(home: Path, more: Sequence[str] = ()) -> Warm:
    """The process that gives the commands, away from the user's caches, and without Java.

    `more` are further modules that it imports.
    """
    return Warm([*_LIBRARIES, *more], environment(home))


def perform(command: Command, folder: Path, warm: Warm) -> dict:
    """Gives a command in an unpacked run; what is recorded of it, and all that it said."""
    runs.unpack(command.archive, folder)
    for line in command.lines[:-1]:
        done = _give(line, folder, warm)
        assert done.returncode == 0, done.stdout + done.stderr
    before = _files(folder)
    done = _give(command.lines[-1], folder, warm, command.stdin)
    written = sorted(file for file, at in _files(folder).items() if before.get(file) != at)
    of_help = "--help" in command.lines[-1]
    return {
        "status": done.returncode,
        "written": sorted({_settled(file) for file in written}),
        "json": _keys_of(folder, written),
        "lines": _keys_of_lines(done.stdout),
        "flags": sorted({*re.findall(r"(?<![\w-])--\w+", done.stdout)}) if of_help else [],
        "said": done.stdout + done.stderr,
    }


def environment(home: Path) -> dict[str, str]:
    """The environment of the commands: away from the user's caches, and without Java."""
    java = home / "bin" / "java"
    java.parent.mkdir(exist_ok=True)
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    return {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{java.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH") or str(ROOT),
        "COLUMNS": "100",
    }


def _give(line: str, folder: Path, warm: Warm, stdin: str = "") -> subprocess.CompletedProcess:
    return warm.give(shlex.split(line.format(**PLACES)), folder, stdin)


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.stat().st_ino)
        for file in files
    }


def _settled(file: str) -> str:
    """A file's name without what is random in it and what orbax has in a checkpoint."""
    file = re.sub(r"(.*/checkpoints/\d+)/.*", r"\1", file)
    file = re.sub(r"events\.out\.tfevents\..*", "events.out.tfevents", file)
    return re.sub(r"\b[0-9a-f]{16,}\b", "HASH", file)


def _keys_of(folder: Path, files: list[str]) -> dict[str, list[str]]:
    """Keys of the JSON files that were written, and of all rows of JSON lines."""
    found = {}
    for file in files:
        if "/checkpoints/" in file or file.startswith("page/"):
            continue
        if file.endswith(".json"):
            content = json.loads((folder / file).read_text())
        elif file.endswith(".jsonl"):
            content = [json.loads(line) for line in (folder / file).read_text().splitlines()]
        else:
            continue
        rows = content if isinstance(content, list) else [content]
        keys = {key for row in rows if isinstance(row, dict) for key in row}
        found[_settled(file)] = sorted(keys - _OF_A_MACHINE)
    return found


# Keys that some machines have.
_OF_A_MACHINE = {"METEOR"}


def _keys_of_lines(said: str) -> list[str]:
    """Keys of the JSON lines that were printed."""
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return sorted({key for row in rows for key in row} - _OF_A_MACHINE)


def _recorded() -> dict:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def main() -> None:
    """Records the commands named, or all."""
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    names = sys.argv[1:]
    if names == ["--missing"]:
        names = [command.name for command in COMMANDS if command.name not in _recorded()]
    with tempfile.TemporaryDirectory() as home, start(Path(home)) as warm:
        for command in COMMANDS:
            if names and command.name not in names:
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = perform(command, Path(folder), warm)
            said = found.pop("said")
            lost = [text for text in command.mentions if text not in said]
            print(command.name, found["status"], f"NOT SAID: {lost}" if lost else "", flush=True)
            if lost or "Traceback" in said:
                print(said[-2000:])
            text = json.dumps({**_recorded(), command.name: found}, indent=1, sort_keys=True)
            RECORD.write_text(text + "\n")


if __name__ == "__main__":
    main()
