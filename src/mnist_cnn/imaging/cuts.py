"""Cut ink into the pieces that may each be a digit, where digits touch.

Over-segmentation, as for the amounts on checks: many cuts, of which few are right, and every piece
between two of them is a candidate. Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner,
"Gradient-based learning applied to document recognition", Proceedings of the IEEE 86 (1998),
section V.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import cv2
import numpy as np
import numpy.typing as npt

from mnist_cnn.imaging.box import Box
from mnist_cnn.imaging.ink import Plane, pen_width
from mnist_cnn.imaging.load import Gray
from mnist_cnn.imaging.normalize import normalize

HEIGHT = 64  # pixels, to which taller ink is reduced; a digit's image has 20
MAX_LENGTH = 12  # in heights; longer ink is no row of digits that touch

# In heights of the ink: between cuts that are tried, how far one may lean, and a piece's width.
STEP, REACH = 0.06, 0.16
MIN_WIDTH, MAX_WIDTH, MIN_HEIGHT = 0.1, 1.3, 0.4
MAX_CROSSED = 3.5  # ink that a cut may cross, in pen widths
CRUMB = 0.06  # smaller parts, as a fraction of a piece's largest, belong to its neighbors

# The cost of a cut, in pixels of ink: off its middle, and aside by a pixel.
OFF_MIDDLE, ASIDE = 0.03, 0.02


class Cut(NamedTuple):
    """A path from the top to the bottom of ink: its column in each row, and the ink it crosses."""

    columns: npt.NDArray[np.int64]
    crossed: float


@dataclass(frozen=True)
class Pieces:
    """The n pieces of ink between any two of its cuts.

    Attributes:
        cuts: number of cuts, with both ends of the ink.
        ends: int64 ``[n, 2]``, the cuts on the left and the right of each piece.
        images: uint8 ``[n, 28, 28]``, in MNIST's format.
        boxes: location in the ink.
        features: float64 ``[n, FEATURES]``, what tells a digit from half of one or two of them.
    """

    cuts: int
    ends: npt.NDArray[np.int64]
    images: Gray
    boxes: list[Box]
    features: npt.NDArray[np.float64]


FEATURES = 18


def cut_up(ink: Plane) -> Pieces | None:
    """Return the pieces of `ink`, cropped to connected ink; None if it cannot be taken apart."""
    if ink.shape[1] > MAX_LENGTH * ink.shape[0]:
        return None
    reduction = max(1.0, ink.shape[0] / HEIGHT)
    if reduction > 1:
        size = (max(1, round(ink.shape[1] / reduction)), HEIGHT)
        ink = cast("Plane", cv2.resize(ink, size, interpolation=cv2.INTER_AREA))
    pen = pen_width(ink > 0.5)
    if not pen:
        return None
    cuts = _cuts(ink, MAX_CROSSED * pen)
    found = list(_pieces(ink, cuts, pen))
    if not found:
        return None
    ends, images, boxes, features = zip(*found, strict=True)
    return Pieces(
        cuts=len(cuts),
        ends=np.array(ends),
        images=np.stack(images),
        boxes=[box.scaled(reduction) for box in boxes],
        features=np.array(features),
    )


def _cuts(ink: Plane, most: float) -> list[Cut]:
    """Return cuts that cross at most `most` pixels of ink, without those that are nearly alike."""
    height, width = ink.shape
    kept: list[Cut] = []
    for cut in sorted(_paths(ink), key=lambda cut: cut.crossed):
        apart = [np.abs(cut.columns - other.columns) for other in kept]
        differs = all(gap.max() > 0.12 * height or gap.mean() > 0.05 * height for gap in apart)
        if cut.crossed <= most and differs:
            kept.append(cut)
    kept.sort(key=lambda cut: float(cut.columns.mean()))
    first, last = (Cut(np.full(height, column), 0.0) for column in (0, width))
    return [first, *kept, last]


def _paths(ink: Plane) -> Iterator[Cut]:
    """Yield, for columns a step apart, the upright cut and the one that crosses the least ink."""
    height, width = ink.shape
    step, reach = max(1, round(STEP * height)), max(2, round(REACH * height))
    rows = np.arange(height)
    for middle in range(step, width - step // 2, step):
        left, right = max(0, middle - reach), min(width, middle + reach + 1)
        off = (np.arange(left, right) - middle) / reach
        lean = left + _cheapest_path(ink[:, left:right] + OFF_MIDDLE * off**2 + 1e-3)
        for columns in (np.full(height, middle), lean):
            yield Cut(columns, float(ink[rows, columns].sum()))


def _cheapest_path(cost: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the column in each row of the path of least `cost` from the top to the bottom."""
    total = cost[0]
    came_from = []
    for row in cost[1:]:
        padded = np.pad(total, 1, constant_values=np.inf)
        reached = np.stack([padded[:-2] + ASIDE, total, padded[2:] + ASIDE])
        came_from.append(reached.argmin(axis=0) - 1)
        total = row + reached.min(axis=0)
    path = [int(total.argmin())]
    for step in reversed(came_from):
        path.append(path[-1] + int(step[path[-1]]))
    return np.array(path[::-1])


def _pieces(
    ink: Plane, cuts: list[Cut], pen: float
) -> Iterator[tuple[tuple[int, int], Gray, Box, list[float]]]:
    """Yield the cuts, image, box and features of each piece that is neither wide nor tiny."""
    height, width = ink.shape
    columns = np.arange(width)
    before = [columns < cut.columns[:, None] for cut in cuts]
    middles = [float(cut.columns.mean()) for cut in cuts]
    for start, left in enumerate(cuts):
        for end in range(start + 1, len(cuts)):
            right, across = cuts[end], (middles[end] - middles[start]) / height
            crossing = (right.columns < left.columns).any()
            is_whole = start == 0 and end == len(cuts) - 1
            if crossing or not (is_whole or MIN_WIDTH < across < MAX_WIDTH):
                continue
            piece = np.where(before[end] & ~before[start], ink, 0)
            total = float(piece.sum())
            if total < 0.25 * pen * height:
                continue
            box, parts = _without_crumbs(piece)
            piece = piece[box.top : box.bottom, box.left : box.right]
            if box.height < MIN_HEIGHT * height:
                continue
            inner = int(start > 0) + int(end < len(cuts) - 1)
            crossed = (left.crossed / pen, right.crossed / pen)
            kept = float(piece.sum()) / total
            of_ink = [kept, total / pen / height, box.top / height, parts, inner]
            features = _features(piece, height, crossed, of_ink)
            yield (start, end), normalize(np.ascontiguousarray(piece)), box, features


def _without_crumbs(piece: Plane) -> tuple[Box, int]:
    """Clear crumbs from `piece`; return the box of what is left, and the number of its parts."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (piece > 0).astype(np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    kept = areas > CRUMB * areas.max()
    piece[~kept[labels]] = 0
    left, top, across, down = stats[kept, :4].T
    box = Box(int(left.min()), int(top.min()), int((left + across).max()), int((top + down).max()))
    return box, int(kept.sum())


def _features(
    piece: Plane, height: int, crossed: tuple[float, float], of_ink: list[float]
) -> list[float]:
    """Return the features of a piece of ink of `height`, all of the order of 1."""
    kept, mass, top, parts, inner = of_ink
    width, tall = np.log(piece.shape[1] / height) + 0.5, np.log(piece.shape[0] / height)
    return [
        *(1.0, width, width**2, mass - 1.5, (mass - 1.5) ** 2, tall, tall**2, top),
        *(np.log(kept), min(crossed[0], 3) + min(crossed[1], 3), inner, min(parts - 1, 3)),
        *_topology(piece > 0.5),
    ]


def _topology(drawn: npt.NDArray[np.bool_]) -> list[float]:
    """Return the number of holes; and of strokes across, in the upper, middle and lower third."""
    padded = np.pad(drawn, 1).astype(np.int8)
    _, _, stats, _ = cv2.connectedComponentsWithStats((1 - padded).astype(np.uint8), connectivity=4)
    around = np.sort(stats[1:, cv2.CC_STAT_AREA])[::-1]
    holes = int((around[1:] > 0.004 * drawn.size).sum())
    level = (np.diff(padded, axis=1) == 1).sum(axis=1)[1:-1]
    upright = (np.diff(padded, axis=0) == 1).sum(axis=0)[1:-1]
    thirds = [float(part.mean()) for part in np.array_split(level, 3) if part.size]
    return [
        float(holes),
        *(thirds + [0.0] * (3 - len(thirds))),
        float(upright.mean()),
        upright.max() / 3,
    ]
