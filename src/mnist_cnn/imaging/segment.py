"""Segment ink into digits: connected parts, joined into digits and lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from mnist_cnn.imaging.box import Box
from mnist_cnn.imaging.ink import Plane
from mnist_cnn.imaging.load import PictureError

MAX_PARTS = 2_000  # per page; more are noise
MAX_WIDTH = 8  # of touching digits, as a multiple of the usual height of marks
EDGE, MAX_EDGE = 0.9, 0.05  # length and width of the paper's edge, as fractions of the picture's


@dataclass(frozen=True)
class Part:
    """One or several connected components of ink.

    Attributes:
        box: bounding box.
        area: number of pixels.
        labels: values of its pixels in the label plane.
    """

    box: Box
    area: int
    labels: frozenset[int]

    @classmethod
    def of(cls, parts: Sequence["Part"]) -> "Part":
        """Merge `parts` into one."""
        return cls(
            box=Box(
                min(part.box.left for part in parts),
                min(part.box.top for part in parts),
                max(part.box.right for part in parts),
                max(part.box.bottom for part in parts),
            ),
            area=sum(part.area for part in parts),
            labels=frozenset().union(*(part.labels for part in parts)),
        )


def _parts(ink: Plane) -> tuple[list[Part], npt.NDArray[np.int32]]:
    """Return the connected components of `ink`, and the plane with each pixel's label."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (ink > 0).astype(np.uint8), connectivity=8
    )
    parts = [
        Part(Box(left, top, left + width, top + height), area, frozenset([label]))
        for label, (left, top, width, height, area) in enumerate(stats.tolist())
        if label  # 0 is paper
    ]
    return parts, cast("npt.NDArray[np.int32]", labels)


def _cut(ink: Plane, labels: npt.NDArray[np.int32], part: Part) -> Plane:
    box = part.box
    window = np.s_[box.top : box.bottom, box.left : box.right]
    return np.where(np.isin(labels[window], list(part.labels)), ink[window], 0)


def whole(ink: Plane, keep_edges: bool = False) -> Plane | None:
    """Crop a picture of one digit to the digit's ink; None if there is none.

    Leaves out specks. If the digit does not touch the edge, also leaves out all parts that do,
    unless `keep_edges` is set.
    """
    parts, labels = _parts(ink)
    if not parts:
        return None
    height, width = ink.shape

    def is_inside(part: Part) -> bool:
        box = part.box
        return box.left > 0 and box.top > 0 and box.right < width and box.bottom < height

    largest = max(part.area for part in parts)
    inside = [part for part in parts if is_inside(part)]
    if inside and not keep_edges and max(part.area for part in inside) > 0.3 * largest:
        parts = inside
        largest = max(part.area for part in parts)
    digit = Part.of([part for part in parts if part.area > 0.03 * largest])
    return _cut(ink, labels, digit)


def separate(ink: Plane) -> list[list[tuple[Box, Plane]]]:
    """Crop each digit of a page, with its box: line by line, from left to right.

    Raises:
        PictureError: if there are more than `MAX_PARTS`.
    """
    parts, labels = _parts(ink)
    parts = [part for part in parts if not _is_edge(part.box, ink)]
    if not parts:
        return []
    # The median by area, not by count, since most parts may be dots and crumbs.
    by_height = sorted(parts, key=lambda part: part.box.height)
    passed = np.cumsum([part.area for part in by_height])
    usual = by_height[int(np.searchsorted(passed, passed[-1] / 2))].box.height
    solid = [part for part in parts if max(part.box.height, part.box.width) > 0.15 * usual]
    if len(solid) > MAX_PARTS:
        raise PictureError(
            f"holds {len(solid):,} separate marks, more than the {MAX_PARTS:,} of a page of digits"
        )
    digits = [
        part
        for part in _joined(solid, usual)
        if part.box.width < MAX_WIDTH * usual
        and (
            part.box.height > 0.4 * usual
            or (part.box.height > 0.25 * usual and _has_hole(_cut(ink, labels, part)))
        )
    ]
    return [[(part.box, _cut(ink, labels, part)) for part in line] for line in _lines(digits)]


def _is_edge(box: Box, ink: Plane) -> bool:
    """Return whether a mark is the edge of the paper: narrow, and along a side of the picture."""
    height, width = ink.shape
    at_side = box.left == 0 or box.right == width
    at_end = box.top == 0 or box.bottom == height
    upright = box.height > EDGE * height and box.width < MAX_EDGE * width
    level = box.width > EDGE * width and box.height < MAX_EDGE * height
    return bool((at_side and upright) or (at_end and level))


def _has_hole(digit: Plane) -> bool:
    """Return whether ink encloses paper, as a small 0 does; dots, commas and dashes do not."""
    paper = np.pad(digit < 0.5, 1, constant_values=True).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(paper, connectivity=4)
    return bool(np.sort(stats[1:, cv2.CC_STAT_AREA])[:-1].sum() > 0.05 * digit.size)


def _joined(parts: Sequence[Part], usual: int) -> list[Part]:
    """Join parts above one another within a digit's height, such as the bar of a 5 and the rest."""
    tallest = 1.4 * usual
    groups: list[Part] = []
    near: dict[tuple[int, int], list[int]] = {}  # places in `groups`, by the cells of a grid

    def cells(box: Box, above: float = 0) -> Iterator[tuple[int, int]]:
        rows = range(int((box.top - above) // tallest), int((box.bottom + above) // tallest) + 1)
        return product(rows, range(box.left // usual, box.right // usual + 1))

    for part in sorted(parts, key=lambda part: part.area, reverse=True):
        around = {place for cell in cells(part.box, tallest) for place in near.get(cell, ())}
        place, joined = len(groups), part
        for other in sorted(around):
            if _is_one_digit(groups[other].box, part.box, tallest):
                place, joined = other, Part.of([groups[other], part])
                break
        groups[place : place + 1] = [joined]
        if joined.box.height < tallest:  # otherwise nothing more fits in
            for cell in cells(joined.box):
                near.setdefault(cell, []).append(place)
    return groups


def _is_one_digit(box: Box, other: Box, tallest: float) -> bool:
    shared = min(box.right, other.right) - max(box.left, other.left)
    height = max(box.bottom, other.bottom) - min(box.top, other.top)
    return shared > 0.5 * min(box.width, other.width) and height < tallest


def _lines(parts: Sequence[Part]) -> list[list[Part]]:
    """Group digits that overlap vertically into lines, top to bottom, each from left to right."""
    lines: list[list[Part]] = []
    for part in sorted(parts, key=lambda part: part.box.left):
        nearest, most = None, 0.4
        for line in lines:
            last = line[-1].box
            shared = min(part.box.bottom, last.bottom) - max(part.box.top, last.top)
            overlap = shared / min(part.box.height, last.height)
            if overlap > most:
                nearest, most = line, overlap
        if nearest is None:
            lines.append([part])
        else:
            nearest.append(part)
    return sorted(
        lines, key=lambda line: float(np.mean([part.box.top + part.box.bottom for part in line]))
    )
