"""Sweeps and reports that use capjax; capjax never imports them."""
