"""Fifteen noisy pictures of one colour each, with captions, as a user's folder."""

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def write_pictures(folder) -> None:
    """Writes 0.png ... 14.png and captions.csv; the last three are validation."""
    rng = np.random.default_rng(0)
    rows = ["image,caption,split"]
    for number in range(15):
        name, colour = list(COLOURS.items())[number % 3]
        noise = rng.integers(-20, 20, (70, 90, 3))
        pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "validation" if number >= 12 else "train"
        rows += [f"{number}.png,a {name} {noun},{split}" for noun in ("wall", "picture")]
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
