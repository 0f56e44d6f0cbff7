"""Attention, pieces and the part of an image that was seen, as JSON for `view.js`."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from capjax.data.resize import Resize, Resizes
    from capjax.evaluate.captioning import Caption


def encode_maps(caption: "Caption") -> list[Any]:
    """Encodes a caption's attention: `encode` of its mean over layers and heads, on the grid alone.

    Raises:
      ValueError: the caption has no attention.
    """
    # Imported here, because a server of exported programs has no models.
    from capjax.evaluate.attention_maps import grid_maps

    return encode(grid_maps(caption).mean(axis=(1, 2)))


def encode(maps: np.ndarray) -> list[Any]:
    """Encodes maps [T, h, w] for JSON: [h, w, base64 of uint8 T x h x w], each of maximum 255."""
    most = maps.max(axis=(1, 2), keepdims=True, initial=np.finfo(np.float32).tiny)
    scaled = np.rint(255 * maps / most).astype(np.uint8)
    return [*maps.shape[1:], base64.b64encode(scaled.tobytes()).decode()]


def pieces(text: str, words: Sequence[str]) -> list[str]:
    """Splits a caption's text at the beginning of each token, one piece for each token.

    A piece includes the spaces before it: with a word tokenizer all but the first have one, with a
    subword tokenizer only those that begin a word. A token that is not in the text, such as part of
    a character, has an empty piece. Joined, the pieces are the text, unless there are no tokens, or
    the text without what comes before all of them: a prompt.
    """
    found, place = [], _start(text, words)
    for word in words:
        token, spaces = word.strip(), len(text[place:]) - len(text[place:].lstrip())
        if token and text.startswith(token, place + spaces):
            found.append(text[place : place + spaces + len(token)])
            place += len(found[-1])
        else:
            found.append("")
    return [*found[:-1], found[-1] + text[place:]] if found else []


def _start(text: str, words: Sequence[str]) -> int:
    """Where the tokens begin if the text ends with all of them, else 0."""
    rest = text
    for word in reversed(words):
        token, rest = word.strip(), rest.rstrip()
        if not rest.endswith(token):
            return 0
        rest = rest.removesuffix(token)
    return len(rest.rstrip())


def seen_part(resize: "Resize | Resizes", width: int, height: int) -> list[float]:
    """The part of an upright image that the model sees: left, top, right, bottom, from 0 to 1."""
    box = zip(resize.seen(width, height), (width, height, width, height), strict=True)
    return [round(at / size, 4) for at, size in box]
