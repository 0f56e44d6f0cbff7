"""Errors of published weights."""

import json
from typing import Any

from capjax.files.errors import ReportedError


class WeightsError(ReportedError, ValueError):
    """A weights file that can't be used; the message names it, and says what does not fit."""


class ExportError(ReportedError, ValueError):
    """A captioner that another library has no parts for; the message names the config's field."""


def refusal(path: str, name: str, value: Any, instead: str) -> WeightsError:
    """Returns the error for a field of a JSON file that has another value than it must have."""
    found = json.dumps(value)
    return WeightsError(f"{path}: {name}={found:.80} is not supported; it must be {instead}")
