"""Other readings of a picture whose plain reading is no digit: what may hide the digit, removed."""

from collections.abc import Iterator

import cv2
import numpy as np

from mnist_cnn.imaging.ink import Plane, find_ink
from mnist_cnn.imaging.load import Gray
from mnist_cnn.imaging.normalize import normalize, to_mnist
from mnist_cnn.imaging.segment import whole

MIN_SHEET = 0.15  # fraction of the picture that a sheet or a frame takes at least
MARGIN = 0.04  # of the sheet's sides, cut off: the frame's line, or the sheet's edge
MIN_LINE = 0.7  # fraction of the picture's side that a ruled line runs through at least
MIN_HEIGHT = 0.2  # of what is left between the lines, as a fraction of the picture's height
MAX_SIDE = 500  # pixels, to which larger pictures are reduced: lines and sheets are coarse


def alternatives(gray: Gray) -> Iterator[Gray]:
    """Yield further images as MNIST has them, uint8 ``[28, 28]``, that a picture may show.

    In turn: what lies inside its largest sheet of paper or frame, its ink without the lines that
    run through the picture, and the picture on larger sheets, if its ink meets the edge.
    """
    scale = MAX_SIDE / max(gray.shape)
    if scale < 1:
        reduced = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        gray = reduced.astype(np.uint8)
    ink = find_ink(gray)
    sheet = _inside(gray, ink)
    candidates = [None if sheet is None else to_mnist(sheet)]
    unruled = _without_lines(ink)
    digit = None if unruled is None else whole(unruled, keep_edges=True)
    if digit is not None and digit.shape[0] > MIN_HEIGHT * ink.shape[0]:
        candidates.append(normalize(digit))
    candidates += map(to_mnist, _on_larger_sheets(gray, ink))
    yield from (image for image in candidates if image is not None)


def _on_larger_sheets(gray: Gray, ink: Plane) -> Iterator[Gray]:
    """Yield `gray` in the middle of larger sheets, light and dark, if its ink meets the edge."""
    edge = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
    if not edge.any():
        return
    threshold, _ = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    margin = max(gray.shape) // 4
    for shade in (gray[gray > threshold], gray[gray <= threshold]):
        if shade.size:
            yield np.pad(gray, margin, constant_values=round(float(np.median(shade))))


def _inside(gray: Gray, ink: Plane) -> Gray | None:
    """Return what lies inside the largest quadrilateral of `gray`, seen from above."""
    _, bright = cv2.threshold(gray, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    drawn = ((ink > 0) * 255).astype(np.uint8)
    corners, largest = None, MIN_SHEET * gray.size
    for mask in (bright, drawn):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in contours:
            hull = cv2.convexHull(contour)
            outline = cv2.approxPolyDP(hull, 0.03 * cv2.arcLength(hull, closed=True), closed=True)
            area = cv2.contourArea(outline)
            is_filled = cv2.contourArea(contour) > 0.85 * cv2.contourArea(hull)
            if len(outline) == 4 and is_filled and largest < area < 0.97 * gray.size:
                corners, largest = outline.reshape(4, 2).astype(np.float32), area
    return None if corners is None else _from_above(gray, corners)


def _from_above(gray: Gray, corners: Plane) -> Gray:
    """Return the quadrilateral with these `corners`, ``[4, 2]``, as a rectangle, less a margin."""
    total, difference = corners.sum(axis=1), np.diff(corners, axis=1)[:, 0]
    order = [total.argmin(), difference.argmin(), total.argmax(), difference.argmax()]
    quad = corners[order]  # top left, top right, bottom right, bottom left
    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)  # top, right, bottom, left
    width, height = (max(8, round(float(pair.mean()))) for pair in (sides[::2], sides[1::2]))
    target = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    matrix = cv2.getPerspectiveTransform(quad, target)
    flat = cv2.warpPerspective(gray, matrix, (width, height))
    across, down = (max(2, round(MARGIN * side)) for side in (width, height))
    inner = flat[down : height - down, across : width - across]
    return np.ascontiguousarray(inner).astype(np.uint8)


def _without_lines(ink: Plane) -> Plane | None:
    """Return `ink` without level and upright lines that run through it; None if there are none."""
    level = _without_level_lines(ink)
    rest = ink if level is None else level
    upright = _without_level_lines(np.ascontiguousarray(rest.T))
    return level if upright is None else np.ascontiguousarray(upright.T)


def _without_level_lines(ink: Plane) -> Plane | None:
    run = np.ones((1, max(3, round(MIN_LINE * ink.shape[1]))), np.uint8)
    # Broadened first, a line that is rough or slightly slanted stays in one piece.
    broadened = cv2.dilate((ink > 0).astype(np.uint8), np.ones((3, 1), np.uint8))
    lines = cv2.dilate(cv2.morphologyEx(broadened, cv2.MORPH_OPEN, run), np.ones((3, 1), np.uint8))
    on_line = lines > 0
    if not on_line.any():
        return None
    rest = np.where(on_line, 0, ink).astype(np.float32)
    # Strokes that cross a line are connected again.
    thickness = int(cv2.connectedComponentsWithStats(lines)[2][1:, cv2.CC_STAT_HEIGHT].max())
    bridged = cv2.morphologyEx(rest, cv2.MORPH_CLOSE, np.ones((thickness + 3, 1), np.uint8))
    return np.where(on_line, bridged, rest).astype(np.float32)
