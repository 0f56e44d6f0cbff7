"""Defaults that command lines show, apart from the modules that import JAX."""

COMPILATION_CACHE = "~/.cache/capjax/xla"
"""Folder where JAX keeps compiled programs between starts."""

TIMEOUT = 100
"""Seconds without a heartbeat after which a process counts as dead; the default of JAX."""
