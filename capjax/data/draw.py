"""A draw of images that depends on their names alone."""

import hashlib
import json


def fraction(image: str, seed: int) -> float:
    """A pseudorandom number in [0, 1) of an image's name and a seed.

    Those below a share are that share of all images, and adding images moves none of the others.
    """
    digest = hashlib.sha256(json.dumps([seed, image]).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
