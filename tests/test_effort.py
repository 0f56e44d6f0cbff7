"""What is slow says why, and waits until it is asked for."""

import ast

import pytest

from tests.helpers.command_line import REPOSITORY
from tests.helpers.effort import sweep

SLOW = "pytest.mark.slow"


def test_every_slow_mark_has_a_reason():
    for file in (REPOSITORY / "tests").rglob("*.py"):
        nodes = [*ast.walk(ast.parse(file.read_text()))]
        calls = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == SLOW]
        for call in calls:
            assert [keyword.arg for keyword in call.keywords] == ["reason"], file
        marks = [n for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n) == SLOW]
        assert len(marks) == len(calls), f"{file}: a mark that is not called has no reason"


def test_a_sweep_marks_all_but_its_daily_cases():
    one, two, pair = sweep([1, 2, (3, 4)], [1])
    assert one == 1
    assert (two.values, pair.values) == ((2,), (3, 4))
    assert all(mark.name == "slow" and mark.kwargs["reason"] for mark in two.marks + pair.marks)
    with pytest.raises(AssertionError):
        sweep([1], [2])
