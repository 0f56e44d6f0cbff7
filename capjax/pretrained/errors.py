"""Errors of published weights."""

from capjax.files.errors import ReportedError


class WeightsError(ReportedError, ValueError):
    """A weights file that can't be used; the message names it, and says what does not fit."""


class ExportError(ReportedError, ValueError):
    """A captioner that another library has no parts for; the message names the config's field."""
