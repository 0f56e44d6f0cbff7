"""Benchmarks of speed and memory against other libraries. See README.md."""
