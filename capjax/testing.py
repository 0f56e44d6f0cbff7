"""Checks that a user runs on a decoder of their own."""
