"""Command lines: flags, and the calls that they make."""
