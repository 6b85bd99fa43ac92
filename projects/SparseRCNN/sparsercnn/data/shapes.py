"""The synthetic set ``shapes``: scenes of rectangles, ellipses and triangles, drawn from a seed.

This module samples and draws a scene; :mod:`sparsercnn.data.shapes_files` writes and registers the
set. Coordinates are continuous: pixel (row i, column j) covers [j, j + 1) x [i, i + 1).
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["CLASS_NAMES", "Scene", "Shape", "draw_scene"]

CLASS_NAMES = ("rectangle", "ellipse", "triangle")

_MAX_SHAPES = 4
_EMPTY_SHARE = 0.04  # fraction of images without shapes
_EXTENT = (24.0, 72.0)  # longer side of a shape's box, in pixels of a 128-pixel image
_ATTEMPTS = 20  # positions tried before a shape is omitted
_MIN_VISIBLE = 0.9  # fraction of each shape's pixels that later shapes must not cover
_MIN_CONTRAST = 200  # sum of |differences| between the colours of a shape and of those below it
_SHADE = 16.0  # amplitude of the smooth texture
_NOISE = 6  # amplitude of the noise of single pixels
_GRID = 7  # knots per side of the smooth texture


@dataclass
class Shape:
    """One object.

    Attributes:
        class_index: index in CLASS_NAMES.
        polygon: (P, 2), corners (x, y) of a convex polygon in order, in absolute pixels.
    """

    class_index: int
    polygon: np.ndarray

    @property
    def box(self):
        """[x, y, width, height]: the tight box of the whole polygon, including covered parts."""
        low, high = self.polygon.min(axis=0), self.polygon.max(axis=0)
        return [round(float(x), 2) for x in (*low, *(high - low))]

    @property
    def area(self):
        """Area of the polygon, by the shoelace formula."""
        x, y = self.polygon.T
        return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@dataclass
class Scene:
    """One image with its ground truth.

    Attributes:
        image: (size, size, 3), uint8, RGB.
        labels: (size, size), uint8, the visible class at each pixel's centre: 0 for the background
            and 1 + index in CLASS_NAMES for shapes.
        shapes: in drawing order; later shapes cover earlier ones.
    """

    image: np.ndarray
    labels: np.ndarray
    shapes: list[Shape]


def draw_scene(seed, size):
    """Sample and draw a scene. The same arguments give the same scene on any machine.

    At least nine tenths of every shape are visible; polygons and boxes are of the whole shape.

    Args:
        seed (sequence[int]): seed of this scene.
        size (int): width and height of the image in pixels.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    colours = [rng.integers(0, 256, size=3).astype(np.float64)]  # background first
    image = colours[0] + _SHADE * _smooth_noise(rng, size)[..., None]
    is_empty = rng.uniform() < _EMPTY_SHARE
    wanted = 0 if is_empty else int(rng.integers(1, _MAX_SHAPES + 1))
    owner = np.zeros((size, size), dtype=np.int64)  # number of the visible shape, from 1
    shapes, num_pixels = [], []
    for _ in range(wanted):
        placed = _place(rng, owner, num_pixels)
        if placed is None:
            continue
        shape, window, distance = placed
        behind = [colours[i] for i in {0, *owner[window][distance > 0]}]
        colours.append(_contrasting_colour(rng, np.array(behind)))
        shapes.append(shape)
        num_pixels.append(np.count_nonzero(distance > 0))
        owner[window][distance > 0] = len(shapes)
        coverage = np.clip(distance + 0.5, 0, 1)[..., None]
        shaded = colours[-1] + _SHADE * _smooth_noise(rng, size)[window][..., None]
        image[window] = coverage * shaded + (1 - coverage) * image[window]
    image = image + rng.integers(-_NOISE, _NOISE + 1, size=image.shape)
    classes = np.array([0, *(1 + shape.class_index for shape in shapes)], dtype=np.uint8)
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), classes[owner], shapes)


def _place(rng, owner, num_pixels):
    """Sample a shape at a position where it hides little of the earlier ones.

    `owner` is (size, size), the visible shape's number, 0 for the background, and `num_pixels` the
    pixels of each earlier shape, visible or covered. Returns the shape, and its window and
    distances from :func:`_inner_distance`; or None if there is no such position.
    """
    size = len(owner)
    class_index = int(rng.integers(0, len(CLASS_NAMES)))
    extent = size / 128 * rng.uniform(*_EXTENT)
    outline = _outline(rng, class_index)
    outline = (outline - outline.min(axis=0)) * extent / np.ptp(outline, axis=0).max()
    visible = np.bincount(owner.ravel(), minlength=len(num_pixels) + 1)[1:]
    for _ in range(_ATTEMPTS):
        corner = rng.uniform(1, size - 1 - outline.max(axis=0))
        polygon = np.round(outline + corner, 2)
        window, distance = _inner_distance(polygon, size)
        hidden = np.bincount(owner[window][distance > 0], minlength=len(num_pixels) + 1)[1:]
        if all(visible - hidden >= _MIN_VISIBLE * np.array(num_pixels)):
            return Shape(class_index, polygon), window, distance
    return None


def _outline(rng, class_index):
    """Corners of a randomly rotated shape around the origin, at an arbitrary scale."""
    ratio = rng.uniform(0.5, 1.0)
    turn = rng.uniform(0, 2 * np.pi)
    if CLASS_NAMES[class_index] == "rectangle":
        outline = np.array([[-1, -ratio], [1, -ratio], [1, ratio], [-1, ratio]])
    elif CLASS_NAMES[class_index] == "ellipse":
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        outline = np.stack([np.cos(angles), ratio * np.sin(angles)], axis=1)
    else:
        angles = 2 * np.pi / 3 * np.arange(3) + rng.uniform(-0.25, 0.25, size=3)
        outline = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cos, sin = np.cos(turn), np.sin(turn)
    return outline @ np.array([[cos, sin], [-sin, cos]])


def _inner_distance(polygon, size):
    """Signed distance of each pixel's centre to the nearest edge of a convex polygon.

    The sign tells exactly whether the centre is inside. The distance plus one half, clipped to
    [0, 1], approximates the fraction of the pixel that the polygon covers.

    `polygon` is (P, 2), clockwise on the screen, in absolute pixels. Returns a window (rows and
    columns) around it, and the distances in it, in pixels, negative outside of the polygon.
    """
    low = np.maximum(np.floor(polygon.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(polygon.max(axis=0)).astype(int) + 1, size)
    window = (slice(low[1], high[1]), slice(low[0], high[0]))
    x, y = (np.arange(low[axis], high[axis]) + 0.5 for axis in (0, 1))
    edges = np.roll(polygon, -1, axis=0) - polygon
    along_x, along_y = (edges / np.hypot(edges[:, :1], edges[:, 1:])).T[..., None]
    from_x, from_y = x - polygon[:, :1], y - polygon[:, 1:]
    distance = (along_x * from_y)[:, :, None] - (along_y * from_x)[:, None, :]
    return window, distance.min(axis=0)


def _smooth_noise(rng, size):
    """(size, size) in [-1, 1], interpolated between random knots of a coarse grid."""
    knots = rng.uniform(-1, 1, size=(_GRID, _GRID))
    position = np.linspace(0, _GRID - 1, size)
    weights = np.clip(1 - np.abs(position[:, None] - np.arange(_GRID)), 0, None)
    return weights @ knots @ weights.T


def _contrasting_colour(rng, others):
    """A random colour (3,) that contrasts with each of `others`, (P, 3)."""
    candidates = rng.integers(0, 256, size=(16, 3)).astype(np.float64)
    contrast = np.abs(candidates[:, None] - others).sum(axis=2).min(axis=1)
    # The first with enough contrast, or else the one with the most.
    return candidates[np.argmax(np.minimum(contrast, _MIN_CONTRAST))]
