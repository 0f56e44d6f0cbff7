"""The embedded default dataset: procedural scenes, captions and a checker of what captions claim.

Never flip its pictures left to right: the captions tell left from right.
"""
