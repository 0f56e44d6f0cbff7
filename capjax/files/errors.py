"""Base classes of reported errors, and short reasons for others."""

import os
import re


class ReportedError(Exception):
    """An error that commands print as one message, without a traceback."""


class DataError(ReportedError):
    """A dataset that is missing or cannot be used; the message says what would work."""


def reason(error: Exception) -> str:
    """One short line for an error; those of TensorStore have pages of context."""
    if system := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(system[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
