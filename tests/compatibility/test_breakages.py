"""The list of deliberate breakages fits the code; `breakages.py` makes them."""

from pathlib import Path

import pytest

from tests.compatibility.breakage_list import BREAKAGES
from tests.compatibility.breakages import find


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_it_can_be_made(breakage):
    assert find(Path(__file__).parents[2], breakage.old)
    assert breakage.old != breakage.new
