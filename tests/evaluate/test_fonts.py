"""Figures show the letters that a font of this machine has; a warning names other scripts."""

import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from capjax.evaluate import fonts
from capjax.evaluate.figures import figure_pixels


@pytest.fixture(autouse=True)
def _forget():
    fonts._warn.cache_clear()
    fonts._font_with.cache_clear()
    yield
    fonts._font_with.cache_clear()


def figure_of(text):
    figure = Figure(figsize=(2, 1))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xticks([0], [text], parse_math=False)
    figure.suptitle(text)
    return figure


def test_a_script_without_a_font_is_named_once(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_paths", tuple)
    for text in ("a 盒子", "盒"):
        figure_pixels(figure_of(text))
    (record,) = caplog.records
    assert "has all letters of CJK" in record.getMessage()


def test_a_font_that_has_the_letters_is_taken(monkeypatch, caplog):
    path = font_manager.findfont("STIXGeneral")
    usual = fonts._points_of(font_manager.findfont("DejaVu Sans"))
    letter = chr(min(fonts._points_of(path) - usual))
    monkeypatch.setattr(fonts, "_paths", lambda: (path,))
    figure = figure_of(f"a {letter}")
    figure_pixels(figure)  # Matplotlib warns of a letter that it can't draw.
    assert figure._suptitle.get_family()[-1] == "STIXGeneral"
    assert letter in figure._suptitle.get_text()
    assert not caplog.records
