"""Logs of a run on wandb.ai, which needs the package wandb."""

import html
import importlib
import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from capjax.files.atomic import write_atomic

# Holds the id under which a workdir is continued.
_ID = "wandb_id"


def is_installed() -> bool:
    """True if wandb can be imported."""
    return importlib.util.find_spec("wandb") is not None


class WandbLog:
    """The logs of a workdir as a run of a project; the interface of `events.Events`.

    A training that continues from a checkpoint continues the run. Steps that a kill had lost are
    then logged twice, since wandb deletes nothing.
    """

    def __init__(self, project: str, directory: str):
        """Begins the run, or continues that of the workdir `directory`."""
        self._wandb: Any = importlib.import_module("wandb")
        file = os.path.join(directory, _ID)
        known = None
        if os.path.exists(file):
            with open(file, encoding="utf-8") as stream:
                known = stream.read()
        name = os.path.basename(os.path.abspath(directory))
        self._run = self._wandb.init(
            project=project, name=name, dir=directory, id=known, resume="allow"
        )
        write_atomic(file, self._run.id.encode())
        # wandb's own step counts calls.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars."""
        self._run.log({**values, "step": step})

    def text(self, step: int, name: str, text: str) -> None:
        """Adds a text."""
        self._run.log({name: self._wandb.Html(f"<pre>{html.escape(text)}</pre>"), "step": step})

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Adds an image, uint8 [H, W, 3]."""
        self._run.log({name: self._wandb.Image(pixels), "step": step})

    def hyperparameters(self, step: int, values: Mapping[str, str | bool | float]) -> None:
        """Sets the run's config."""
        self._run.config.update(dict(values), allow_val_change=True)

    def flush(self) -> None:
        """Does nothing: wandb sends by itself."""

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()
