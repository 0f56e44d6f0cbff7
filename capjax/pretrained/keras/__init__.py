"""Weights of Keras's applications."""
