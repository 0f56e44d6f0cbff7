"""Tries whether the tests notice deliberate breakages.

    python -m tests.compatibility.breakages [--root DIR] [--only NAME] [--json FILE]

Copies the repository to a temporary folder, makes one mistake after another there, and runs the
tests that ought to notice, without those that are marked slow.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.compatibility.breakage_list import BREAKAGES, Breakage

SEARCHED = ("capjax", "experiments")
COPIED = (*SEARCHED, "configs", "tests", "benchmarks", "docs")
SECONDS = 400


def find(root: Path, old: str) -> Path:
    """The file that has a text.

    Raises:
      LookupError: it is not there exactly once.
    """
    files = [file for folder in SEARCHED for file in sorted((root / folder).rglob("*.py"))]
    places = [(file, file.read_text(encoding="utf-8").count(old)) for file in files]
    places = [(file, count) for file, count in places if count]
    if [count for _, count in places] != [1]:
        said = ", ".join(f"{count} in {file.relative_to(root)}" for file, count in places)
        raise LookupError(said or "not found")
    return places[0][0]


def copy(root: Path, to: Path) -> None:
    """What tests need of a repository."""
    ignore = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, to / name, ignore=ignore)
    for file in root.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy(file, to / file.name)


def run(root: Path, breakage: Breakage) -> dict:
    """Makes a mistake in a copy, and what the tests say; the copy is whole again after it."""
    began = time.monotonic()
    try:
        file = find(root, breakage.old)
    except LookupError as error:
        return {"name": breakage.name, "result": "not found", "said": str(error), "seconds": 0}
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(breakage.old, breakage.new), encoding="utf-8")
    try:
        done = _pytest(root, breakage)
    finally:
        file.write_text(text, encoding="utf-8")
    # 1: tests failed. Anything else, such as a file that can't be imported, is told apart.
    result = {0: "missed", 1: "caught"}.get(done.returncode, f"status {done.returncode}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {
        "name": breakage.name,
        "file": str(file.relative_to(root)),
        "result": result,
        "said": failed[0][:160] if failed else done.stdout.strip().splitlines()[-1:],
        "seconds": round(time.monotonic() - began),
    }


def _pytest(root: Path, breakage: Breakage) -> subprocess.CompletedProcess:
    tests = [_found(root, test) for test in breakage.tests]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow"]
    command = [sys.executable, "-B", "-m", "pytest", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    try:
        return subprocess.run(
            command,
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, -1, "too slow", "")


def _found(root: Path, test: str) -> str:
    """A test's file, where it lies by now."""
    if not test.endswith(".py") or (root / test).exists():
        return test
    places = sorted((root / "tests").rglob(Path(test).name))
    return str(places[0].relative_to(root)) if places else test


def main() -> None:
    """Tries all, or those whose name has a text."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--only", default="", help="a part of the names")
    parser.add_argument("--share", default="0/1", help="I/N: each N-th, from I on")
    parser.add_argument("--without", default="\n", help="a part of the tests' names to leave out")
    parser.add_argument("--json", type=Path, help="file of the results")
    arguments = parser.parse_args()
    first, step = map(int, arguments.share.split("/"))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        copy(arguments.root, Path(folder))
        chosen = [b for b in BREAKAGES if arguments.only in b.name]
        chosen = [b for b in chosen if arguments.without not in " ".join(b.tests)]
        for breakage in chosen[first::step]:
            found.append(run(Path(folder), breakage))
            row = found[-1]
            print(f"| {row['result']} | {row['name']} | {row['seconds']} s | {row['said']} |")
            sys.stdout.flush()
            if arguments.json:
                arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    caught = sum(row["result"] == "caught" for row in found)
    print(f"{caught} of {len(found)} caught")


if __name__ == "__main__":
    main()
