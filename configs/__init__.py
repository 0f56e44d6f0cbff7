"""Run configurations: `base.py` has every field; the others override it or are part of it."""
