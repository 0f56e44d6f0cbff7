"""The curves of a run."""

from capjax.evaluate.figures import training_curve

VALIDATION = [
    {"step": step, "group": "validation", "loss": 2.0, "CIDEr-D": 40.0} for step in (2, 4)
]


def drawn(rows):
    """By its axis label, the y values of each line."""
    figure = training_curve([*rows, *VALIDATION], "CIDEr-D")
    return {axis.get_ylabel(): [[*line.get_ydata()] for line in axis.lines] for axis in figure.axes}


def test_losses_and_the_metric_have_an_axis_each():
    rows = [{"step": step, "group": "train", "loss": 3.0 - step} for step in (1, 2)]
    assert drawn(rows) == {
        "loss, nats a token": [[2.0, 1.0], [2.0, 2.0]],
        "validation CIDEr-D": [[40.0, 40.0]],
    }


def test_rewards_divergence_and_endings_are_below():
    rows = [
        {"step": step, "group": "train", "reward": step / 2, "kl": step, "finished": 0.5, "loss": 1}
        for step in (1, 2)
    ]
    assert drawn(rows) == {
        "loss, nats a token": [[1, 1], [2.0, 2.0]],
        "validation CIDEr-D": [[40.0, 40.0]],
        "reward of samples": [[0.5, 1.0]],
        "KL from the start, nats": [[1, 2]],
        "share that ends properly": [[0.5, 0.5]],
    }
    del rows[0]["loss"], rows[1]["loss"]
    assert drawn(rows)["loss, nats a token"] == [[2.0, 2.0]]
