"""Weights of vision transformers."""
