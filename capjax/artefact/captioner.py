"""From images to captions by the files of an artefact's folder, whatever runs its model.

Writing an artefact puts this file into its runner.py, in the place of the import. Shapes: B images
of [H, W, 3], n captions each of T tokens.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from PIL import Image

from capjax.artefact.images import ImageError, open_image
from capjax.artefact.manifest import MOST_SEED, TOKENIZER, ArtefactError


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption of an image, with the fields of capjax's.

    Its length and iteration are those of all captions of the image: itself and its alternatives.

    Attributes:
      text: the caption, with the prompt.
      log_prob: its log-probability under the model, in nats.
      score: what the method ranks by.
      finished: whether it came to its end before the length limit.
      words, tokens: texts and ids of the tokens without prompt and end.
      log_probs: of each word, and last of the end where it is finished.
      met: False if it lacks a word that it must include.
      alternatives: the other captions, the best first, without attention.
      attention: float32 [words, maps, positions], or None if the artefact has none. The positions
        are `prefix` others and then a grid by rows, as the manifest's "attention" says.
    """

    text: str
    log_prob: float
    score: float
    finished: bool
    words: tuple[str, ...]
    log_probs: tuple[float, ...]
    tokens: tuple[int, ...]
    met: bool = True
    alternatives: tuple["Caption", ...] = ()
    attention: np.ndarray | None = None

    def __len__(self) -> int:
        return 1 + len(self.alternatives)

    def __iter__(self) -> Iterator["Caption"]:
        yield self
        yield from self.alternatives


class Captioner:
    """An artefact without its model, which a runner adds as `run`.

    Attributes:
      manifest: what manifest.json says.
    """

    def __init__(self, folder: str, manifest: dict[str, Any]):
        self.manifest = manifest
        self._words: Any = tokenizers.Tokenizer.from_file(os.path.join(folder, TOKENIZER))
        self._special = frozenset(manifest["tokens"]["special"])

    def caption(
        self, images: Sequence[Any], *, seed: int | None = None, batch_size: int = 32
    ) -> list[Caption]:
        """Captions images: paths, bytes of files, Pillow images, or uint8 [height, width, 3].

        Args:
          images: all at once, the caller's list.
          seed: of samples, 0 to 2**31 - 1, by default that of the manifest; other methods do not
            use it.
          batch_size: most images at once.

        Raises:
          ImageError: an image can't be used; names the first one.
          ArtefactError: the model gives an image no finite log-probability.
        """
        pixels = [self.read(image) for image in images]
        return list(self.caption_pixels(pixels, seed=seed, batch_size=batch_size))

    def caption_pixels(
        self,
        pixels: Sequence[np.ndarray],
        *,
        seed: int | None = None,
        batch_size: int = 32,
        index: Sequence[int] | None = None,
    ) -> Iterator[Caption]:
        """Yields the captions of what `read` returns; `index` as in `run`."""
        # The next power of two, so that few sizes are compiled.
        size = min(batch_size, 1 << max(len(pixels) - 1, 0).bit_length())
        places = range(len(pixels)) if index is None else index
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            batch = np.zeros((size, *self.shape), np.uint8)
            batch[: len(part)] = part
            padded = [*places[start : start + size], *[-1] * (size - len(part))]
            for caption in self.captions(self.run(batch, seed, index=padded))[: len(part)]:
                if isinstance(caption, ArtefactError):
                    raise caption
                yield caption

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of the model's images."""
        size = self.manifest["preprocessing"]["size"]
        return size, size, 3

    def run(
        self, pixels: np.ndarray, seed: int | None = None, *, index: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Captions uint8 [B, H, W, 3].

        An image's samples depend on the seed, as in `caption`, and on its index, by default its
        place in the batch. Rows of a negative index are padding, whose results mean nothing.

        Returns:
          tokens int32 [B, n, T], lengths int32 [B, n] with the end token, 0 for no caption; scores
          and log_probs float32 [B, n]; token_log_probs float32 [B, n, T]; finished bool [B, n];
          and where the manifest says so met bool [B, n] and attention float32 [B, 1, T, maps,
          positions] of the best caption.
        """
        raise NotImplementedError

    def captions(self, found: dict[str, np.ndarray]) -> list[Caption | ArtefactError]:
        """The caption of each image of what `run` returns; an error where there is none."""
        return [self._caption(found, row) for row in range(len(found["lengths"]))]

    def _caption(self, found: dict[str, np.ndarray], row: int) -> Caption | ArtefactError:
        """The best caption of an image, with its alternatives."""
        if not np.isfinite(found["log_probs"][row, 0]):
            return ArtefactError(
                f"image {row} of the batch, counted from 0, has no caption: the model gives it "
                "log-probabilities that are NaN or infinite"
            )
        captions: list[Caption] = []
        for place in np.flatnonzero(found["lengths"][row]).tolist():
            caption = self._one(found, (row, place))
            # Sharp samples are often equal.
            if not (self.manifest["distinct"] and caption.text in [c.text for c in captions]):
                captions.append(caption)
            if len(captions) == self.manifest["captions"]:
                break
        return dataclasses.replace(captions[0], alternatives=tuple(captions[1:]))

    def _one(self, found: dict[str, np.ndarray], at: tuple[int, int]) -> Caption:
        length, finished = int(found["lengths"][at]), bool(found["finished"][at])
        tokens = found["tokens"][at][: length - finished].tolist()
        maps = found["attention"][at][: len(tokens)] if "attention" in found and not at[1] else None
        return Caption(
            text=self._decode([*self.manifest["tokens"]["prompt"], *tokens]),
            log_prob=float(found["log_probs"][at]),
            score=float(found["scores"][at]),
            finished=finished,
            words=tuple(map(self._word, tokens)),
            log_probs=tuple(found["token_log_probs"][at][:length].tolist()),
            tokens=tuple(tokens),
            met="met" not in found or bool(found["met"][at]),
            attention=maps,
        )

    def _decode(self, tokens: Sequence[int]) -> str:
        kept = [token for token in tokens if token not in self._special]
        return self._words.decode(kept, skip_special_tokens=False)

    def _word(self, token: int) -> str:
        if token in self._special:
            return self._words.id_to_token(token)
        return self._decode([token])

    def read(self, image: Any) -> np.ndarray:
        """The model's input of an image, uint8 [H, W, 3]; raises ImageError."""
        return self.fit(open_image(image))

    def fit(self, picture: Image.Image) -> np.ndarray:
        """The model's input of what `open_image` returns."""
        how, (width, height) = self.manifest["preprocessing"], picture.size
        side = how["resize_to"] or how["size"]
        resized, square = (side, side), (how["size"], how["size"])
        if how["keep_aspect"]:
            shorter = min(width, height)
            resized = int(side * width / shorter), int(side * height / shorter)
        halve = round if how["round_crop"] else int
        left, top = (halve((edge - how["size"]) / 2) for edge in resized)
        if resized[0] * resized[1] > 2**24:  # Of a thin image no more is enlarged than is seen.
            x, y = width / resized[0], height / resized[1]
            right, bottom = (left + square[0]) * x, (top + square[1]) * y
            box = (left * x, top * y, min(right, width), min(bottom, height))
            return np.array(self._resize(picture, square, box))
        picture = self._resize(picture, resized, (0, 0, width, height))
        if resized != square:
            picture = picture.crop((left, top, left + square[0], top + square[1]))
        return np.array(picture)

    def _resize(self, picture: Image.Image, size: tuple[int, int], box: Any) -> Image.Image:
        how = self.manifest["preprocessing"]
        if how["antialias"]:
            return picture.resize(size, Image.Resampling[how["interpolation"].upper()], box=box)
        left, top, right, bottom = box  # Pillow's transform does not antialias.
        affine = ((right - left) / size[0], 0, left, 0, (bottom - top) / size[1], top)
        return picture.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)


def row_of(caption: Caption) -> dict[str, Any]:
    """JSON row of a caption, as of `capjax caption --json`."""
    names = ("log_prob", "score", "finished", "words", "log_probs")
    row = {"caption": caption.text, **{name: getattr(caption, name) for name in names}}
    if not caption.met:
        row["met"] = False
    if caption.alternatives:
        row["alternatives"] = [row_of(other) for other in caption.alternatives]
    return row


def run_command(load: Callable[[str], Captioner], argv: Sequence[str] | None) -> int:
    """Prints lines for each image by the captioner of a folder; returns 1 if one can't be used."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="print a row of JSON for each image")
    parser.add_argument("--seed", type=int, help="of samples (default: the manifest's)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at once (default: 32)")
    parser.add_argument(
        "--artefact",
        default=os.path.dirname(os.path.abspath(__file__)),
        metavar="DIR",
        help="its folder (default: that of this file)",
    )
    given = parser.parse_args(argv)
    if not 0 <= (given.seed or 0) <= MOST_SEED or given.batch_size < 1:
        parser.error(f"--seed must be 0 to {MOST_SEED}, and --batch_size 1 or more")
    try:
        return _caption_all(load(given.artefact), given)
    except ArtefactError as error:
        sys.exit(f"error: {error}")


def _caption_all(artefact: Captioner, given: argparse.Namespace) -> int:
    status = 0
    for start in range(0, len(given.images), given.batch_size):
        read = {}
        for place, name in enumerate(given.images[start : start + given.batch_size], start):
            try:
                read[place] = artefact.read(name)
            except ImageError as error:
                print(f"error: {error}", file=sys.stderr)
                if given.json:
                    print(json.dumps({"image": name, "error": str(error)}))
                status = 1
        options = {"seed": given.seed, "batch_size": given.batch_size, "index": [*read]}
        captions = artefact.caption_pixels([*read.values()], **options)
        for place, caption in zip(read, captions, strict=True):
            name = given.images[place]
            if given.json:
                print(json.dumps({"image": name, **row_of(caption)}), flush=True)
                continue
            for each in caption:
                print(f"{name}\t{each.text}", flush=True)
    return status
