"""Fonts that have the letters of a figure's texts."""

import functools
import logging
import unicodedata
import warnings

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

_logger = logging.getLogger(__name__)


def fit_fonts(figure: Figure) -> None:
    """Gives texts a font for each letter that the usual one lacks, of the fonts of this machine.

    A letter that no font has is drawn as a box, and a warning names its script once.
    """
    for axes in (axes for axes in figure.axes if axes.axison):
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # Makes the labels, which `findobj` finds.
    for text in figure.findobj(Text):
        lacking = [c for c in text.get_text() if not c.isspace() and not _is_usual(ord(c))]
        fonts = {letter: _font_with(letter) for letter in lacking}
        others = dict.fromkeys(filter(None, fonts.values()))
        if others:
            text.set_family([*text.get_family(), *others])
        for letter in [letter for letter in fonts if fonts[letter] is None]:
            _warn(unicodedata.name(letter, "UNNAMED").split()[0])
            # Matplotlib's own warning, of each letter.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)


@functools.cache
def _warn(script: str) -> None:
    _logger.warning(
        "no font on this machine has all letters of %s, and figures show boxes for them: install "
        "one that has, for example of the Noto fonts",
        script,
    )


def _is_usual(point: int) -> bool:
    path = font_manager.findfont(font_manager.FontProperties())
    return point in _points_of(path)


@functools.cache
def _font_with(letter: str) -> str | None:
    """The family of the first font of this machine that has a letter; None if none has."""
    for path in _paths():
        if ord(letter) in _points_of(path):
            # Matplotlib's own list may be older than the font.
            font_manager.fontManager.addfont(path)
            return font_manager.get_font(path).family_name
    return None


@functools.cache
def _paths() -> tuple[str, ...]:
    return tuple(sorted(font_manager.findSystemFonts()))


@functools.cache
def _points_of(path: str) -> frozenset[int]:
    """The code points that a font file has; none of one that can't be read."""
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
