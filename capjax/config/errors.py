"""The error of a config."""

from capjax.files.errors import ReportedError


class ConfigError(ReportedError, ValueError):
    """A config that can't be used; the message names the field and says what would work."""
