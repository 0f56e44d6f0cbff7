"""Runs the benchmarks one after another, and writes the table at the top of benchmarks/README.md.

    python -m benchmarks.all [--quick] [--rounds 3] [--to bench.json] [--only MODULE ...]

`make bench` and `make bench QUICK=1` run this with all peers installed. Each benchmark is a process
of its own, which measures the machine's limits before its rounds; progress is on stderr. One that
fails, or whose peer's library is missing, has a row that says so, and the others go on. The file
`--to` has the limits and all rounds, and is written after each benchmark. The quick form takes one
round of a part of them, some twenty minutes on two cores. `--only` prints the table of these
modules and leaves the README as it is.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.sides import cores, progress
from capjax.evaluate.results import commit
from capjax.files.atomic import write_atomic, write_json

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- begin: make bench -->\n", "<!-- end: make bench -->\n"
LIBRARIES = ("jax", "keras", "tensorflow", "tensorflow-cpu", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class Part:
    """A benchmark of the table.

    Attributes:
      module: in this folder.
      peers: libraries that it needs.
      full: its arguments.
      quick: its arguments in the quick form; None if it is left out there.
    """

    module: str
    peers: tuple[str, ...]
    full: str = ""
    quick: str | None = ""


KERAS = ("keras", "tensorflow")
KERAS_ENCODERS = "mobilenet_v2 mobilenet_v3_small mobilenet_v3_large efficientnet_b0 inception_v3"
PARTS = (
    Part("train_speed", KERAS, quick="--layouts packed --steps 20"),
    Part(
        "recurrent_speed",
        ("torch",),
        quick="--task 32x1 beam --layouts bucketed --captions 64",
    ),
    Part(
        "encoder_speed",
        KERAS,
        f"--encoders {KERAS_ENCODERS}",
        "--encoders mobilenet_v2 inception_v3 --batches 2",
    ),
    Part(
        "encoder_speed",
        ("torch", "transformers"),
        "--encoders resnet vit",
        "--encoders vit --batch 16 --batches 1",
    ),
    Part("feature_speed", KERAS),
    Part("feeding", ("tensorflow", "grain")),
    Part("vit_gpt2_speed", ("torch", "transformers"), quick="--repeats 1"),
    Part("blip_git_speed", ("torch", "transformers"), "--repeats 1", None),
    Part("vocabulary_loss", ("torch",), quick="--words 50257 --repeats 1"),
)


def run(part: Part, arguments: list[str]) -> dict[str, Any]:
    """The report of a benchmark, its last line of JSON; {"error": words} if there is none."""
    missing = [name for name in part.peers if importlib.util.find_spec(name) is None]
    if missing:
        install = '`pip install -e ".[benchmark,parity]"`'
        return {"error": f"not measured, for want of {' and '.join(missing)}: {install}"}
    command = [sys.executable, "-m", f"benchmarks.{part.module}", *arguments]
    said = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        with subprocess.Popen(
            command, stdout=output, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
        ) as process:
            for line in process.stderr:
                sys.stderr.write(line)
                said.append(line.strip())
        output.seek(0)
        lines = output.read().splitlines()
    if process.returncode == 0 and lines:
        return json.loads(lines[-1])
    return {"error": f"failed: {reason(said) or f'exit status {process.returncode}'}"}


def reason(said: list[str]) -> str:
    """The last error in a process's output that is not that of a process which waited for it."""
    errors = [line for line in said if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    own = [line for line in errors if "CalledProcessError" not in line]
    return (own or errors or [""])[-1][:200].replace("|", "\\|")


def describe_machine() -> dict[str, Any]:
    """CPU, cores, versions of the libraries that are installed, and the code's commit."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpu = found[1] if found else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": cores(), "versions": versions, "commit": commit()}


def spread(reports: list[dict], name: str) -> str:
    """The least and the largest of a limit over the reports."""
    found = sorted(report["limits"][name] for report in reports)
    return f"{found[0]:.0f} to {found[-1]:.0f}"


def table(done: dict[str, Any]) -> str:
    """The table of all reports, with the machine above it."""
    machine, reports = done["machine"], [one["report"] for one in done["parts"]]
    rounds = "one round" if done["rounds"] == 1 else f"medians of {done['rounds']} rounds"
    form = "Quick form, " if done["quick"] else "Full form, "
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{form}{rounds}. {machine['cpu']}, {machine['cores']} core(s); {versions}; capjax at "
        f"{machine['commit']}.",
    ]
    whole = [report for report in reports if "error" not in report]
    if whole:
        lines.append(
            f"Limits: {spread(whole, 'gflops')} GFLOP/s, {spread(whole, 'gb_per_s')} GB/s; one "
            f"thread copies {spread(whole, 'copy_gb_per_s')} GB/s."
        )
    lines += ["", rows.HEADER]
    for one, report in zip(done["parts"], reports, strict=True):
        if "error" in report:
            name = " ".join(["benchmarks." + one["module"], *one["arguments"]])
            lines.append(f"| `{name}` | {report['error']} | | | | | |")
        else:
            lines += [rows.line(row, report["limits"]) for row in report["rows"]]
    return "\n".join(lines) + "\n"


def rewrite(path: Path, text: str) -> None:
    """Replaces what is between the marks of a file.

    Raises:
      ValueError: it has not one pair of marks.
    """
    whole = path.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise ValueError(
            f"{path} must have one line {BEGIN.strip()} and after it one {END.strip()}"
        )
    write_atomic(path, f"{before}{BEGIN}\n{text}\n{END}{after}".encode())


def main() -> None:
    modules = list(dict.fromkeys(part.module for part in PARTS))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a part of them, one round")
    parser.add_argument("--rounds", type=int, help="number of runs of each side")
    parser.add_argument("--to", default="bench.json", help="file of all raw figures")
    parser.add_argument("--only", nargs="+", choices=modules, help="run these, and print the table")
    given = parser.parse_args()
    rounds = given.rounds or (1 if given.quick else 3)
    done: dict[str, Any] = {"machine": describe_machine(), "quick": given.quick, "rounds": rounds}
    done["parts"] = parts = []
    for part in PARTS:
        options = part.quick if given.quick else part.full
        if options is None or part.module not in (given.only or modules):
            continue
        arguments = [*options.split(), "--rounds", str(rounds)]
        progress(f"{part.module}:", *arguments)
        report = run(part, arguments)
        if "error" in report:
            progress(part.module, report["error"])
        parts.append({"module": part.module, "arguments": arguments, "report": report})
        write_json(given.to, done)
    print(table(done), end="")
    if not given.only:
        rewrite(README, table(done))


if __name__ == "__main__":
    main()
