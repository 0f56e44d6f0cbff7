"""Errors that several parts raise."""


class DataError(Exception):
    """A dataset that is not there or cannot be used; the message says what would work."""
