"""How much a test is to draw: little in the quick tier, all of it with --slow."""

import os

VARIABLE = "CAPJAX_TESTS_SLOW"


def slow_too() -> bool:
    """Whether tests marked slow run, too."""
    return VARIABLE in os.environ


def examples(most: int) -> int:
    """How many examples Hypothesis tries where the whole suite has it try `most`."""
    return most if slow_too() else max(10, most // 3)
