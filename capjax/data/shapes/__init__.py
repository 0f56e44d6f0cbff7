"""The default dataset: procedural scenes, their captions, and a checker of captions' truth.

Its images must not be flipped left to right, because the captions say left and right.
"""
