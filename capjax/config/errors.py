"""The error of a config."""


class ConfigError(ValueError):
    """A config that can't be used; the message names the field and says what would work."""
