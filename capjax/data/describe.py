"""Describes a split to a user: statistics as text, examples as a figure."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from capjax.data.captions import CaptionTable, EncodedCaptions
from capjax.data.images import ImageError, decoded
from capjax.data.source import Source
from capjax.data.tokenizer import Tokenizer

_BARS = 15
_BAR_WIDTH = 40

# Lengths are in inches. The line height and characters a line are those of this font size and
# spacing.
_COLUMNS = 4
_CELL, _GAP, _PHOTO = 3.2, 0.25, 2.6
_FONT, _LINE_SPACING, _LINE, _LINE_CHARACTERS = 8, 1.3, 0.15, 52
_CAPTIONS, _CAPTION_LINES = 5, 3
# Most pixels of an image's side, about the resolution of the figure.
_PIXELS = 400


def describe_captions(table: CaptionTable, encoded: EncodedCaptions, tokenizer: Tokenizer) -> str:
    """Statistics of a split as lines of text.

    Args:
      table: the split's captions.
      encoded: the same captions, encoded.
      tokenizer: the one that encoded them, trained on the train split.
    """
    per_image = table.captions.utf8.counts
    blocks = map(tokenizer.encode_batch, table.captions.blocks())
    words = np.array([len(ids) for block in blocks for ids in block], int)
    report = encoded.report
    lines = [
        f"{len(per_image)} images, {len(words)} captions",
        f"captions an image: {_spread(per_image)}",
        f"words a caption: {_spread(words)}",
        *histogram(words),
        f"vocabulary of the train split: {tokenizer.vocab_size} tokens; "
        f"it knows {1 - report.unknown_share:.2%} of {report.words} words here",
    ]
    if report.frequent_unknown:
        unknown = ", ".join(f"{word} {count}" for word, count in report.frequent_unknown)
        lines.append(f"unknown most often: {unknown}")
    lines.append(
        f"longer than {encoded.max_length} tokens, the end counted: "
        f"{report.dropped + report.cut} captions ({report.dropped} dropped, {report.cut} cut); "
        f"without a word: {report.empty}"
    )
    if report.bare_images:
        lines.append(f"images with no caption left: {report.bare_images}")
    return "\n".join(lines)


def _spread(counts: Sequence[int]) -> str:
    if not len(counts):
        return "none"
    return f"{np.min(counts)} to {np.max(counts)}, {np.mean(counts):.1f} on average"


def histogram(counts: Sequence[int]) -> list[str]:
    """Text lines "from-to  number  bar" for integers, at most 15 bins of equal width."""
    if not len(counts):
        return []
    lowest, highest = int(min(counts)), int(max(counts))
    width = (highest - lowest) // _BARS + 1
    bars = np.bincount((np.asarray(counts) - lowest) // width)
    lines = []
    for k, number in enumerate(bars):
        first = lowest + k * width
        label = f"{first}-{first + width - 1}" if width > 1 else f"{first}"
        # Rounded up: only an empty bin has no bar.
        length = -(-int(number) * _BAR_WIDTH // int(bars.max()))
        lines.append(f"  {label:>9} {number:>8}  {'#' * length}".rstrip())
    return lines


def draw_examples(source: Source, indices: Sequence[int]) -> Figure:
    """Draws images of a source with their captions below, four a row.

    An image that cannot be used is replaced by its error.
    """
    examples = [source[int(index)] for index in indices]
    notes = [_wrap(example.captions) for example in examples]
    rows = [range(i, min(i + _COLUMNS, len(examples))) for i in range(0, len(examples), _COLUMNS)]
    heights = [_PHOTO + _GAP + _LINE * (1 + max(len(notes[i]) for i in row)) for row in rows]
    width = min(_COLUMNS, len(examples)) * (_CELL + _GAP) + _GAP
    height = sum(heights) + _GAP
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    top = height - _GAP
    for row, row_height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            left = _GAP + column * (_CELL + _GAP)
            box = (left / width, (top - _PHOTO) / height, _CELL / width, _PHOTO / height)
            axis = figure.add_axes(box)
            axis.axis("off")
            _draw_image(axis, examples[i].image, examples[i].image_id)
            below = top - _PHOTO - _LINE / 2
            _write(figure, left / width, below / height, _shorten(examples[i].image_id), "gray")
            _write(figure, left / width, (below - _LINE) / height, "\n".join(notes[i]), "black")
        top -= row_height
    return figure


def _write(figure: Figure, x: float, y: float, text: str, color: str) -> None:
    # A caption with dollar signs is not mathematics.
    style = {"fontsize": _FONT, "linespacing": _LINE_SPACING, "color": color, "parse_math": False}
    figure.text(x, y, text, verticalalignment="top", **style)


def _shorten(image_id: str) -> str:
    """Cuts an id to one line; keeps its end, which differs between paths."""
    fits = len(image_id) <= _LINE_CHARACTERS
    return image_id if fits else f"...{image_id[3 - _LINE_CHARACTERS :]}"


def _wrap(captions: Sequence[str]) -> list[str]:
    """The lines below an image; long captions are cut, and captions beyond the fifth counted."""
    lines = []
    for caption in captions[:_CAPTIONS]:
        lines += textwrap.wrap(
            # Keeps a full stop with its word where the dataset has a space before it.
            caption.replace(" .", "\N{NO-BREAK SPACE}."),
            _LINE_CHARACTERS,
            initial_indent="• ",
            subsequent_indent="   ",
            max_lines=_CAPTION_LINES,
            placeholder=" ...",
        )
    if len(captions) > _CAPTIONS:
        lines.append(f"and {len(captions) - _CAPTIONS} more")
    return lines


def _draw_image(axis, image: bytes | str, name: str) -> None:
    try:
        with decoded(image, name=name) as whole:
            # Large images are smoothed when shrunk; small ones are enlarged pixel by pixel.
            picture = whole.copy()
            picture.thumbnail((_PIXELS, _PIXELS), Image.Resampling.BILINEAR)
    except ImageError as error:
        reason = "\n".join(textwrap.wrap(str(error), 40, max_lines=6))
        axis.text(0.5, 0.5, reason, ha="center", va="center", color="red", parse_math=False)
        return
    axis.imshow(picture, interpolation="nearest")
    axis.set_anchor("SW")
