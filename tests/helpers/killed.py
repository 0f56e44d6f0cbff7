"""A training that is killed in this process."""

import pytest

from capjax.run.train import train
from capjax.train import loop


class Killed(Exception):
    pass


def train_until_killed(monkeypatch, config, workdir, *, update: int) -> None:
    """Trains until an update is made that nothing has been said of yet."""
    add, calls = loop._Clock.add, []

    def count(self, captions):
        calls.append(captions)
        if len(calls) == update:
            raise Killed
        add(self, captions)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Clock, "add", count)
        with pytest.raises(Killed):
            train(config, workdir)
