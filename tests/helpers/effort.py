"""How much a test is to draw: little in the quick tier, all of it with --slow."""

import os

import pytest

VARIABLE = "CAPJAX_TESTS_SLOW"


def slow_too() -> bool:
    """Whether tests marked slow run, too."""
    return VARIABLE in os.environ


def examples(most: int) -> int:
    """How many examples Hypothesis tries where the whole suite has it try `most`."""
    return most if slow_too() else max(10, most // 5)


def few(cases, share=5):
    """Every fifth of many cases, all of them where the whole suite runs."""
    return [*cases][:: 1 if slow_too() else share]


def sweep(cases, daily, reason="a sweep: others of these cases run every day"):
    """The cases for `parametrize`; all but those in `daily` are slow."""
    daily, cases, mark = [*daily], [*cases], pytest.mark.slow(reason=reason)
    assert all(case in cases for case in daily)
    return [
        case
        if case in daily
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=mark)
        for case in cases
    ]
