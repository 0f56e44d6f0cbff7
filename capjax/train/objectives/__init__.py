"""Objectives, one file for each."""
