"""Find and remove ruled lines, grids and frames, which run through the digits of a page."""

from dataclasses import dataclass
from typing import TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from mnist_cnn.imaging.ink import Plane

MIN_LENGTH = 0.5  # of a line, as a fraction of the picture's side
RUN = 0.1  # of a straight piece of it: lines may be slanted and wavy
MAX_THICKNESS = 0.025  # of a line, as a fraction of its length; a digit's stroke is thicker
MAX_LEAN = 0.08  # rise of a line over its length

Number = TypeVar("Number", bound=np.generic)
Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rules:
    """The lines on a page.

    Attributes:
        ink: the ink without them, float32 ``[height, width]``.
        level: rows of the level lines' middles, from top to bottom.
        upright: columns of the upright lines' middles, from left to right.
    """

    ink: Plane
    level: list[float]
    upright: list[float]

    def cell(self, column: float, row: float) -> tuple[int, int] | None:
        """Return the row and column, from 1, of the cell of the grid at a place; None outside."""
        down, across = np.searchsorted(self.level, row), np.searchsorted(self.upright, column)
        inside = 0 < down < len(self.level) and 0 < across < len(self.upright)
        return (int(down), int(across)) if inside else None


def without_rules(ink: Plane) -> Rules:
    """Remove the long, thin lines in the ink of a page, and mend the strokes that cross them.

    Upright lines are removed only if they cross two level ones or more; others may be a 1.
    """
    level = _level_lines(ink)
    upright = [
        line
        for line in map(_turned, _level_lines(_turned(ink)))
        if sum(bool((line & other).any()) for other in level) > 1
    ]
    if not level:
        return Rules(ink, [], [])
    rest = _removed(ink, level)
    if upright:
        rest = _turned(_removed(_turned(rest), [_turned(line) for line in upright]))
    return Rules(rest, _middles(level), _middles([_turned(line) for line in upright]))


def _turned(plane: npt.NDArray[Number]) -> npt.NDArray[Number]:
    return np.ascontiguousarray(plane.T)


def _level_lines(ink: Plane) -> list[Bits]:
    """Return a mask of each long, thin, level line, a pixel broader than the line."""
    width = ink.shape[1]
    drawn = (ink > 0).astype(np.uint8)
    # Broadened first, a line that is rough or slightly slanted stays in one piece.
    broad = cv2.dilate(drawn, np.ones((3, 1), np.uint8))
    run = np.ones((1, max(3, round(RUN * width))), np.uint8)
    straight = cv2.morphologyEx(broad, cv2.MORPH_OPEN, run)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(straight, connectivity=8)
    lines = []
    for label, (_, _, length, tall, area) in enumerate(stats.tolist()):
        thickness = area / length - 2
        if (
            label
            and length >= MIN_LENGTH * width
            and thickness <= max(2, MAX_THICKNESS * length)
            and tall <= MAX_LEAN * length + 2 * thickness + 4
        ):
            lines.append((labels == label).astype(np.uint8))
    return lines


def _removed(ink: Plane, lines: list[Bits]) -> Plane:
    on_line = np.bitwise_or.reduce(lines) > 0
    rest = np.where(on_line, 0, ink).astype(np.float32)
    thickness = max(int(line.sum(axis=0).max()) for line in lines)
    mended = cv2.morphologyEx(rest, cv2.MORPH_CLOSE, np.ones((thickness + 3, 1), np.uint8))
    return cast("Plane", np.where(on_line, mended, rest).astype(np.float32))


def _middles(lines: list[Bits]) -> list[float]:
    return sorted(float(np.flatnonzero(line.any(axis=1)).mean()) for line in lines)
