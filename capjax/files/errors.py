"""Base classes of reported errors."""


class ReportedError(Exception):
    """An error that commands print as one message, without a traceback."""


class DataError(ReportedError):
    """A dataset that is missing or cannot be used; the message says what would work."""
