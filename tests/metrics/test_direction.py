"""Each metric that capjax computes has a direction; that of a user's own is the config's."""

import pytest

from capjax.data.shapes import truth
from capjax.metrics import coco
from capjax.metrics.direction import contradicts, direction

LESS = ("loss", "shuffled_truth_rate", "unscored_images")
MORE = ("accuracy", *coco.METRICS, "METEOR", *(name for name in truth.METRICS if name not in LESS))


@pytest.mark.parametrize(("names", "right", "wrong"), [(LESS, "min", "max"), (MORE, "max", "min")])
def test_no_mode_changes_that_of_a_known_metric(names, right, wrong):
    for name in names:
        assert {direction(name, mode) for mode in ("auto", "max", "min")} == {right}
        assert contradicts(name, wrong)
        assert not contradicts(name, right)
        assert not contradicts(name, "auto")


def test_more_is_better_of_a_metric_of_ones_own_unless_the_mode_says_otherwise():
    assert [direction("words", mode) for mode in ("auto", "max", "min")] == ["max", "max", "min"]
    assert not any(contradicts("words", mode) for mode in ("auto", "max", "min"))
