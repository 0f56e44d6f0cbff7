"""Captions of a split, their scores, and figures of attention."""
