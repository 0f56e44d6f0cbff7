"""The table of benchmarks: ratios, fractions of the limit, and how it gets into the README."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import all as bench
from benchmarks import limits, rows

LIMITS = {"cores": 2, "gflops": 100.0, "gb_per_s": 20.0, "copy_gb_per_s": 9.0}


def make_row(*seconds, needs=None, count=None):
    rounds = [
        [{"seconds": peer, "peak_memory_mib": 30.4}, {"seconds": ours, "peak_memory_mib": 20}]
        for peer, ours in seconds
    ]
    row = {"what": "training", "peer": "Keras", "count": count, "unit": "captions/s"}
    return row | {"needs": needs, "rounds": rounds}


def test_a_call_needs_the_longer_of_operations_and_bytes():
    assert rows.needed_seconds({"flops": 2e11, "bytes": 2e10}, LIMITS) == (2.0, "operations")
    assert rows.needed_seconds({"flops": 2e11, "bytes": 8e10}, LIMITS) == (4.0, "bytes")
    row = make_row((4, 4), (9, 8), (20, 5), needs={"flops": 2e11})
    assert rows.fraction(row, LIMITS) == "0.40 operations"
    assert rows.fraction(make_row((4, 4)), LIMITS) == "-"


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    assert rows.ratio(make_row((4, 4), (9, 8), (20, 5))) == "1.12 (1.00 to 4.00)"
    assert rows.ratio(make_row((3, 2))) == "1.50 (one round)"


def test_a_line_has_the_columns_of_the_header():
    row = make_row((8, 4), count=80)
    row["rounds"][0][rows.OURS]["first"] = 7.0
    line = rows.line(row, LIMITS)
    assert line == (
        "| training | 20.0 captions/s | Keras 10.0 captions/s | 2.00 (one round) | - | 7.0, - "
        "| 20, 30 |"
    )
    assert {text.count("|") for text in [line, *rows.HEADER.split("\n")]} == {line.count("|")}


def make_done(*reports):
    machine = {"cpu": "A CPU", "cores": 2, "versions": {"jax": "0.1"}, "commit": "abc"}
    parts = [{"module": "m", "arguments": ["--x"], "report": report} for report in reports]
    return {"machine": machine, "quick": False, "rounds": 3, "parts": parts}


def test_a_benchmark_that_failed_has_a_row_in_words(tmp_path):
    good = {"limits": LIMITS, "rows": [make_row((8, 4))]}
    slower = {"limits": {**LIMITS, "gflops": 90.0}, "rows": []}
    text = bench.table(make_done(good, {"error": "failed: it's broken"}, slower))
    assert rows.line(good["rows"][0], LIMITS) in text
    assert "| `benchmarks.m --x` | failed: it's broken | | | | | |" in text
    assert "medians of 3 rounds. A CPU, 2 core(s); jax 0.1; capjax at abc." in text
    assert "Limits: 90 to 100 GFLOP/s" in text
    # Without a single report there are no limits.
    assert "Limits" not in bench.table(make_done({"error": "failed"}))


def test_the_table_replaces_what_is_between_the_marks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n{bench.BEGIN}old\n{bench.END}after\n")
    for text in ("| new |\n", "| newer |\n"):
        bench.rewrite(path, text)
        assert path.read_text() == f"before\n{bench.BEGIN}\n{text}\n{bench.END}after\n"
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    "text", ["", bench.BEGIN, bench.END + bench.BEGIN, 2 * bench.BEGIN + bench.END]
)
def test_a_file_without_one_pair_of_marks_is_left(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="must have one line <!-- begin: make bench -->"):
        bench.rewrite(path, "new")
    assert path.read_text() == text


def test_the_readme_has_the_marks_and_names_each_benchmark():
    text = bench.README.read_text()
    assert text.count(bench.BEGIN) == text.count(bench.END) == 1
    for part in bench.PARTS:
        assert f"python -m benchmarks.{part.module} " in text


def test_a_missing_library_is_named():
    part = bench.Part("train_speed", ("capjax", "no_such_library"))
    assert bench.run(part, [])["error"].startswith("not measured, for want of no_such_library:")


def test_the_error_of_a_side_is_named():
    said = ["Traceback", "ValueError: a | b", "subprocess.CalledProcessError: Command [...]"]
    assert bench.reason(said) == "ValueError: a \\| b"
    assert bench.reason(said[2:]) == said[2]
    assert bench.reason(["Traceback"]) == ""


def test_a_benchmark_runs_and_its_last_line_is_read(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    folder.joinpath("small.py").write_text(
        "import sys\nprint('table')\nprint('{\"arguments\": \"%s\"}' % sys.argv[1])\n"
    )
    folder.joinpath("broken.py").write_text("import capjax.nothing\n")
    monkeypatch.chdir(tmp_path)
    assert bench.run(bench.Part("small", ()), ["--x"]) == {"arguments": "--x"}
    failed = bench.run(bench.Part("broken", ()), [])["error"]
    assert failed.startswith("failed: ModuleNotFoundError: No module named 'capjax.nothing'")


def test_the_limits_are_the_best_rates(monkeypatch, capsys):
    monkeypatch.setattr(limits, "PRODUCTS", (("small", 4, 5, 6), ("flat", 1, 9, 9)))
    monkeypatch.setattr(limits, "FLOATS", 3 * limits.BLOCK)
    monkeypatch.setattr(sys, "argv", ["limits", "--seconds", "0"])
    limits.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = [rate for one in found["products"] for rate in (one["xla"], one["numpy"])]
    assert found["gflops"] == max(rates)
    assert min(rates) > 0
    streams = [rate for one in found["streams"].values() for rate in one.values()]
    assert found["gb_per_s"] == max(streams)
    assert len(streams) == 4
    assert found["copy_gb_per_s"] > 0


def test_threads_share_the_arrays(monkeypatch):
    monkeypatch.setattr(limits, "FLOATS", 3 * limits.BLOCK)
    array = list(range(limits.FLOATS))
    parts = limits.shares(array, array, 2)
    assert len(parts) == 2
    assert [x for a, _ in parts for x in a] == array
    assert [len(block) for block in limits.blocks(parts[0][0])] == [limits.BLOCK] * 2


def test_the_table_names_this_machine():
    machine = bench.describe_machine()
    assert machine["cores"] >= 1
    assert machine["versions"]["jax"]
    assert Path(bench.README).is_file()
