"""Command lines: flags, wiring, and what they share."""
