"""Files: atomic writes, locks, JSON and text."""
