"""Flax modules: encoders, decoders, and the contract between them."""
