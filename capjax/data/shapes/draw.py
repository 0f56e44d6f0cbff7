"""Draws a scene in NumPy, to the same bytes on every machine.

Each pixel is sampled at 4 x 4 points, and colours are mixed as integers by the counts of points.
There is no rasteriser, no trigonometry and no floating-point sum, which differ between machines.
"""

import numpy as np

from capjax.data.shapes.scene import SIZE, Scene, Thing

RGB = {
    "red": (222, 28, 36),
    "yellow": (250, 214, 20),
    "green": (28, 150, 52),
    "cyan": (30, 205, 215),
    "blue": (38, 72, 220),
    "purple": (190, 50, 210),
}
"""Colours of plain things, with hues about 60 degrees apart."""

_SAMPLES = 4  # points a pixel along each axis
_DARK = 4  # divides the thing's colour in stripes and dots
_PERIOD = 4.5  # pixels from stripe to stripe, the same for small and large things
_STRIPE = 2.0  # width of a stripe, pixels
_HALF_SQRT2 = 0.7071
_SPACING = 5.0  # pixels from dot to dot
_DOT = 1.6  # radius of a dot, pixels

# Unit shapes, y downwards, in the unit disc and of similar visible area. The regular ones are
# numbers, because the sine of libraries differs in the last bit.
_CIRCLE = 0.86
_POLYGONS = {
    "square": [(-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)],
    "triangle": [(0.0, -1.0), (0.875, 0.5), (-0.875, 0.5)],
    "star": [
        (0.0, -1.0),
        (0.265, -0.364),
        (0.951, -0.309),
        (0.428, 0.139),
        (0.588, 0.809),
        (0.0, 0.45),
        (-0.588, 0.809),
        (-0.428, 0.139),
        (-0.951, -0.309),
        (-0.265, -0.364),
    ],
    "cross": [
        (-0.33, -0.94),
        (0.33, -0.94),
        (0.33, -0.33),
        (0.94, -0.33),
        (0.94, 0.33),
        (0.33, 0.33),
        (0.33, 0.94),
        (-0.33, 0.94),
        (-0.33, 0.33),
        (-0.94, 0.33),
        (-0.94, -0.33),
        (-0.33, -0.33),
    ],
}


def draw(scene: Scene) -> np.ndarray:
    """The image of a scene, uint8 [SIZE, SIZE, 3]."""
    image = np.full((SIZE, SIZE, 3), scene.background, np.int32)
    for thing in scene.things:
        window, bright, dark = _coverage(thing)
        colour = np.asarray(RGB[thing.colour], np.int32)
        ground = _SAMPLES**2 - bright - dark
        mixed = (
            image[window] * ground[..., None]
            + colour * bright[..., None]
            + colour // _DARK * dark[..., None]
        )
        image[window] = (mixed + _SAMPLES**2 // 2) // _SAMPLES**2
    return image.astype(np.uint8)


def object_mask(scene: Scene, thing: Thing) -> np.ndarray:
    """Mask of the pixels that `thing` mostly covers, bool [SIZE, SIZE].

    Raises:
      ValueError: the thing is not in the scene.
    """
    if thing not in scene.things:
        raise ValueError(f"the scene does not hold {thing}")
    mask = np.zeros((SIZE, SIZE), bool)
    window, bright, dark = _coverage(thing)
    mask[window] = bright + dark > _SAMPLES**2 // 2
    return mask


def _coverage(thing: Thing) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """A window around the thing, and its bright and dark points a pixel, int32 [H, W] in 0..16."""
    left, right = _span(thing.x, thing.radius)
    top, bottom = _span(thing.y, thing.radius)
    x = (np.arange(left * _SAMPLES, right * _SAMPLES) + 0.5) / _SAMPLES - thing.x
    y = (np.arange(top * _SAMPLES, bottom * _SAMPLES) + 0.5) / _SAMPLES - thing.y
    t = thing.tilt
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    u = x[None, :] * cos + y[:, None] * sin
    v = y[:, None] * cos - x[None, :] * sin
    inside = _inside(thing.shape, u / thing.radius, v / thing.radius)
    marks = inside & _marks(thing.texture, u, v)
    window = (slice(top, bottom), slice(left, right))
    return window, _count(inside & ~marks), _count(marks)


def _span(centre: float, radius: float) -> tuple[int, int]:
    return max(int(centre - radius), 0), min(int(centre + radius) + 1, SIZE)


def _count(points: np.ndarray) -> np.ndarray:
    """Counts the true points of each pixel: bool [4 H, 4 W] -> int32 [H, W]."""
    rows, columns = points.shape
    grouped = points.reshape(rows // _SAMPLES, _SAMPLES, columns // _SAMPLES, _SAMPLES)
    return grouped.sum(axis=(1, 3), dtype=np.int32)


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mask of the points in the unit shape: a disc, or a polygon by even-odd crossings."""
    if shape == "circle":
        return u * u + v * v <= _CIRCLE * _CIRCLE
    corners = _POLYGONS[shape]
    inside = np.zeros(u.shape, bool)
    for (u0, v0), (u1, v1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if v0 == v1:
            continue
        crosses = (v >= min(v0, v1)) & (v < max(v0, v1))
        inside ^= crosses & (u < u0 + (v - v0) * ((u1 - u0) / (v1 - v0)))
    return inside


def _marks(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mask of the dark points: diagonal stripes, or dots in a staggered grid."""
    if texture == "plain":
        return np.zeros(u.shape, bool)
    if texture == "striped":
        across = (u + v) * _HALF_SQRT2
        return np.abs(across - np.round(across / _PERIOD) * _PERIOD) <= _STRIPE / 2
    row = np.round(v / _SPACING)
    column = np.round(u / _SPACING - 0.5 * (row % 2))
    du = u - (column + 0.5 * (row % 2)) * _SPACING
    dv = v - row * _SPACING
    return du * du + dv * dv <= _DOT * _DOT
