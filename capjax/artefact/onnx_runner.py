"""Captions images with the ONNX files in this folder, without JAX and without capjax.

    python runner.py photo.jpg another.png
    python runner.py --json photo.jpg

In Python, where the caption's other fields are those of `Caption`:

    import runner
    captioner = runner.load("folder")
    print(captioner.caption(["photo.jpg"])[0].text)

It needs onnxruntime, numpy, pillow and tokenizers. The encoder is one graph and a step of the
decoder another, and beam search is here. K beams, V tokens of the vocabulary.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from capjax.artefact.captioner import Captioner, run_command
from capjax.artefact.manifest import WHOLE, ArtefactError, read_manifest

FORMAT = "capjax onnx"
ENCODER, STEP = "encoder.onnx", "step.onnx"
_FIELDS = {
    "decoding": {
        "method": "BeamSearch",
        "num_beams": range(1, 2**31),
        "max_length": WHOLE,
        "length_penalty": (float, WHOLE),
        "length_normalization": ("power", "gnmt"),
        "early_stopping": (bool, "never"),
    },
    "search": {"start": WHOLE, "end": WHOLE, "shared": WHOLE},
}
# Of log-probabilities: the model's banned tokens have about -1e9.
_BANNED = -1e8


class _Path(NamedTuple):
    """A live beam or a hypothesis: its tokens and their log-probabilities, and its score."""

    score: float
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]

    def then(self, token: int, log_prob: float, score: float) -> "_Path":
        """With one more token, and its score."""
        return _Path(score, (*self.tokens, token), (*self.log_probs, log_prob))


class OnnxCaptioner(Captioner):
    """A loaded artefact; see `load`."""

    def __init__(self, folder: str, manifest: dict[str, Any]):
        super().__init__(folder, manifest)
        self._encoder, self._step = (
            onnxruntime.InferenceSession(os.path.join(folder, name)) for name in (ENCODER, STEP)
        )
        how, search = manifest["decoding"], manifest["search"]
        self._given = [search["start"], *manifest["tokens"]["prompt"]]
        lengths = np.arange(1, how["max_length"] - len(self._given) + 1, dtype=np.float64)
        if how["length_normalization"] == "gnmt":
            lengths = (5 + lengths) / 6
        self._norms = (lengths ** how["length_penalty"]).astype(np.float32)

    def run(
        self, pixels: np.ndarray, seed: int | None = None, *, index: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """Searches for one image after the other; see `Captioner.run`."""
        del seed  # Nothing is drawn.
        shape = len(pixels), self.manifest["captions"], len(self._norms)
        found = {
            "tokens": np.zeros(shape, np.int32),
            "lengths": np.zeros(shape[:2], np.int32),
            "scores": np.full(shape[:2], -np.inf, np.float32),
            "log_probs": np.full(shape[:2], -np.inf, np.float32),
            "token_log_probs": np.zeros(shape, np.float32),
            "finished": np.zeros(shape[:2], bool),
        }
        for row in range(len(pixels)):
            if index is not None and index[row] < 0:
                continue
            for place, end in enumerate(self._search(pixels[row : row + 1])[: shape[1]]):
                at, length = (row, place), len(end.tokens)
                found["tokens"][at][:length] = end.tokens
                found["lengths"][at] = length
                found["scores"][at] = end.score
                found["log_probs"][at] = np.sum(end.log_probs)
                found["token_log_probs"][at][:length] = end.log_probs
                found["finished"][at] = end.tokens[-1] == self.manifest["search"]["end"]
        return found

    def _search(self, pixels: np.ndarray) -> list[_Path]:
        """Beam search by the rules of `capjax.decode.beam`; the best hypothesis first.

        Args:
          pixels: uint8 [1, H, W, 3].
        """
        how, shared = self.manifest["decoding"], self.manifest["search"]["shared"]
        width, early = how["num_beams"], how["early_stopping"]
        carry = _run(self._encoder, pixels)
        image, beams = carry[:shared], carry[shared:]
        for position, token in enumerate(self._given[:-1]):
            fed = np.full((1, width), token, np.int32), np.int32(position)
            _, *beams = _run(self._step, *fed, *image, *beams)
        # At first there is one beam.
        sums = np.where(np.arange(width) == 0, 0, -np.inf).astype(np.float32)
        last, paths = [self._given[-1]] * width, [_Path(0.0, (), ())] * width
        ends: list[_Path] = []
        for place, norm in enumerate(self._norms):
            fed = np.array([last], np.int32), np.int32(len(self._given) - 1 + place)
            logits, *beams = _run(self._step, *fed, *image, *beams)
            log_probs = _log_probs(logits[0])
            totals = sums[:, None] + log_probs
            live: list[tuple[int, int, _Path]] = []
            for rank, best in enumerate(np.argsort(-totals, axis=None, kind="stable")[: 2 * width]):
                beam, token = divmod(int(best), totals.shape[1])
                path = paths[beam].then(token, log_probs[beam, token], totals[beam, token] / norm)
                ended = token == self.manifest["search"]["end"]
                if rank < width and (ended or place + 1 == len(self._norms)):
                    ends += [path] if path.score > -np.inf else []
                if not ended and len(live) < width:
                    live.append((beam, token, path))
            # Of equal scores the first one.
            ends = sorted(ends, key=lambda end: -end.score)[:width]
            full = len(ends) == width
            chosen, last, paths = (list(part) for part in zip(*live, strict=True))
            sums = totals[chosen, last]
            look_ahead = early == "never" and how["length_penalty"] > 0
            possible = sums[0] / (self._norms[-1] if look_ahead else norm)
            if full and (early is True or width == 1 or possible <= ends[-1].score):
                break
            beams = [leaf[:, chosen] for leaf in beams]
        return ends


def _run(session: onnxruntime.InferenceSession, *inputs: Any) -> list[np.ndarray]:
    names = (each.name for each in session.get_inputs())
    return session.run(None, dict(zip(names, map(np.asarray, inputs), strict=True)))


def _log_probs(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities [K, V] of logits; those of banned tokens are -inf."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.where(found < _BANNED, -np.inf, found)


def load(directory: str | os.PathLike) -> OnnxCaptioner:
    """Loads the artefact in a folder.

    Raises:
      ArtefactError: a file is missing, damaged or of another artefact; or it is of a newer version,
        or not for this version of onnxruntime.
    """
    folder = os.fspath(directory)
    manifest = read_manifest(folder, FORMAT, (ENCODER, STEP), _FIELDS)
    try:
        return OnnxCaptioner(folder, manifest)
    except Exception as error:  # Each library raises its own.
        raise ArtefactError(f"{folder}: can't be read: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command of this file; see `run_command`."""
    return run_command(load, argv)


if __name__ == "__main__":
    sys.exit(main())
