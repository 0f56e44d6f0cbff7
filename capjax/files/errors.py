"""Errors that several parts raise."""


class ReportedError(Exception):
    """An error whose message is all that a user needs: commands print it without a traceback."""


class DataError(ReportedError):
    """A dataset that is not there or cannot be used; the message says what would work."""
