"""Configs: checks of their fields, and the parts built from them."""
