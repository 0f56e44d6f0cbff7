"""Measurements: speed and memory beside a peer, in one run. See README.md."""
