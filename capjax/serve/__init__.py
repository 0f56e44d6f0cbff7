"""Captions over HTTP: `capjax serve`. Imports nothing of training for an artefact."""
