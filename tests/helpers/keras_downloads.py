"""Keras's downloader, replaced."""

import sys
import types


def fake_keras(monkeypatch, get_file):
    """Puts `get_file` in the place of keras.utils.get_file."""
    utils = types.ModuleType("keras.utils")
    utils.get_file = get_file
    monkeypatch.setitem(sys.modules, "keras.utils", utils)


def requests(monkeypatch, imagenet_file, kerass, build):
    """What our loader and Keras's own builder ask of the downloader, and the file that ours gives.

    `kerass` is the module of keras.src.applications, `build` builds its network by the name
    "imagenet".
    """
    asked = []

    def get_file(name, origin, **options):
        asked.append((name, origin, options))
        return f"/models/{name}"

    fake_keras(monkeypatch, get_file)
    found = imagenet_file()
    monkeypatch.setattr(kerass.file_utils, "get_file", get_file)
    monkeypatch.setattr(
        kerass, "Functional", lambda *_, **__: types.SimpleNamespace(load_weights=lambda _: None)
    )
    build()
    return found, asked
