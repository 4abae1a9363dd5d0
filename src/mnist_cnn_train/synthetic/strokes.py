"""Polylines: from the strokes of an image, and back to an image."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Line = npt.NDArray[np.float64]  # [points, 2], x to the right and y down
Gray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Random = np.random.Generator

NEIGHBORS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))  # clockwise


def skeleton(ink: Mask) -> Mask:
    """Thin `ink` to center lines of one pixel; both are bool ``[height, width]``.

    Source: T. Y. Zhang, C. Y. Suen, "A fast parallel algorithm for thinning digital patterns",
    Communications of the ACM 27 (1984).
    """
    image = np.pad(ink, 1)
    while True:
        removed = 0
        for corners in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            around = np.stack(
                [np.roll(image, (-down, -right), (0, 1)) for down, right in NEIGHBORS]
            )
            count = around.sum(axis=0)
            rises = (~around & np.roll(around, -1, axis=0)).sum(axis=0)
            edge = image & (count >= 2) & (count <= 6) & (rises == 1)
            for corner in corners:
                edge &= ~around[list(corner)].all(axis=0)
            image &= ~edge
            removed += int(edge.sum())
        if not removed:
            return image[1:-1, 1:-1]


def trace(lines: Mask) -> list[Line]:
    """Split a skeleton into strokes, each from one end or crossing to the next, in pixels."""
    links = _links(lines)
    ends = [pixel for pixel in links if len(links[pixel]) != 2]
    strokes = []
    for start in [*ends, *links]:  # what no end leads to is a loop
        while links[start]:
            stroke, place = [start], start
            while links[place] and (place == start or place not in ends):
                following = links[place].pop()
                links[following].discard(place)
                stroke.append(following)
                place = following
            strokes.append(np.array(stroke, np.float64)[:, ::-1])
    return strokes


def _links(lines: Mask) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Map each pixel to its neighbors; diagonal ones count only if no side leads there."""
    pixels: dict[tuple[int, int], set[tuple[int, int]]] = {
        (row, column): set() for row, column in np.argwhere(lines).tolist()
    }
    for (row, column), links in pixels.items():
        for down, right in NEIGHBORS:
            place = (row + down, column + right)
            around = {(row + down, column), (row, column + right)} - {(row, column)}
            if place in pixels and (place in around or not around & pixels.keys()):
                links.add(place)
    return pixels


def simplify(stroke: Line, tolerance: float) -> Line:
    """Drop points of `stroke` so that it moves by at most `tolerance` pixels.

    Source: D. Douglas, T. Peucker, "Algorithms for the reduction of the number of points required
    to represent a digitized line or its caricature", Cartographica 10 (1973).
    """
    points = cv2.approxPolyDP(stroke.astype(np.float32).reshape(-1, 1, 2), tolerance, closed=False)
    return points.reshape(-1, 2).astype(np.float64)


def smooth(points: Line, steps: int = 6) -> Line:
    """Connect `points` by a Catmull-Rom spline of `steps` points each."""
    if len(points) < 3:
        return points
    before, start, end, after = (
        np.concatenate([points[:1], points, points[-1:]])[place : len(points) + place - 1, None]
        for place in range(4)
    )
    at = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = (
        2 * start
        + (end - before) * at
        + (2 * before - 5 * start + 4 * end - after) * at**2
        + (3 * start - before - 3 * end + after) * at**3
    ) / 2
    return np.concatenate([curve.reshape(-1, 2), points[-1:]])


def draw(lines: Sequence[Line], side: int, pen: float, anti_aliased: bool, square: bool) -> Gray:
    """Draw dark `lines` on a white square, uint8 ``[side, side]``.

    Args:
        lines: in pixels.
        side: of the picture, in pixels.
        pen: width of the lines, in pixels, at least 1.
        anti_aliased: whether edges have shades of gray, as in photographs; otherwise all pixels are
            black or white, as in paint programs.
        square: whether the tip of the pen is square; otherwise it is round.
    """
    factor = 4 if anti_aliased else 1
    picture = Image.new("L", (factor * side, factor * side), 255)
    canvas, width = ImageDraw.Draw(picture), max(1, round(factor * pen))
    half = width / 2
    for line in lines:
        points = [(x, y) for x, y in (factor * line).tolist()]
        canvas.line(points, fill=0, width=width, joint="curve")
        tip = canvas.rectangle if square else canvas.ellipse
        for x, y in points if width > 2 else ():
            tip((x - half, y - half, x + half - 1, y + half - 1), fill=0)
    return np.asarray(picture.reduce(factor) if anti_aliased else picture)


def fit(lines: Sequence[Line], side: int, margin: float, aspect: float) -> list[Line]:
    """Scale `lines` into the middle of a square of `side` pixels.

    Args:
        lines: of any size.
        side: of the square.
        margin: on each side, as a fraction of `side`.
        aspect: factor for the width, relative to the height.
    """
    stretched = [line * (aspect, 1) for line in lines]
    points = np.concatenate(stretched)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = side * (1 - 2 * margin) / max(float((high - low).max()), 1e-6)
    return [(line - (low + high) / 2) * scale + side / 2 for line in stretched]


def wobble(lines: Sequence[Line], amount: float, rng: Random) -> list[Line]:
    """Rotate and shear `lines`, and move each point by about `amount` of their size."""
    points = np.concatenate(lines)
    size = float(np.ptp(points, axis=0).max())
    turn, slant = rng.normal(scale=0.12), rng.normal(scale=0.15)
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos, sin], [-sin, cos]]) @ np.array([[1, 0], [-slant, 1]])
    return [(line + rng.normal(scale=amount * size, size=line.shape)) @ matrix for line in lines]
