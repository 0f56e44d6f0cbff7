"""Whole captioners of other people."""
