"""The encoders, one per file."""
