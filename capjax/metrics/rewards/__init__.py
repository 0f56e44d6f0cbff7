"""Rewards, one file for each."""
