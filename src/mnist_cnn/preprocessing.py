"""From grey levels to the 28x28 pictures that MNIST is made of.

MNIST's digits were black on white, size-normalised to fit a box of 20x20 pixels with their aspect
kept, anti-aliased by that, and centred by their centre of mass in 28x28.

Sources: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86 (1998), section III.A; C. Yadav, L. Bottou, "Cold case: the
lost MNIST digits", NeurIPS 2019, which reconstructs the steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from mnist_cnn.digits import IMAGE_SIZE
from mnist_cnn.pictures import Grey, PictureError

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BOX = 20  # the longest side of a digit in MNIST

FAINTEST = 0.08  # share of the range from black to white; below it, nothing is told from paper
NOISE = 5.0  # standard deviations of the paper's grain, which ink must exceed
# Of a digit's longest side: the least and the greatest width of its strokes. In MNIST, 1 % are
# thinner, and 3 % broader.
THINNEST, BROADEST = 0.09, 0.23
SMALL = 20  # pixels of the longer side; below, strokes are hardly wider than a pixel
# What is enlarged so much is sharpened: so much of its difference from a Gaussian blur, in enlarged
# pixels, is added. Of validation digits of six breadths of pen, each in 8 x 8 pixels, 98.0 % are
# then read, else 96.5 %. More is better for broad pens, and less for usual ones.
SHARPENED, BLUR = 1.0, 3.0
MOST_PARTS = 2_000  # on one page, beyond which it is noise; the time to join them is quadratic

# The grid of points on which paper is told from ink, and the terms of a quadratic surface there.
GRID = 24
_ROW, _COLUMN = (axis.ravel() for axis in np.mgrid[-1 : 1 : GRID * 1j, -1 : 1 : GRID * 1j])
TERMS = np.stack([np.ones_like(_ROW), _ROW, _COLUMN, _ROW**2, _ROW * _COLUMN, _COLUMN**2], axis=-1)
EDGE = np.maximum(np.abs(_ROW), np.abs(_COLUMN)) > 0.85
TRUST = np.where(EDGE, 1.0, 0.1)  # what surrounds a drawing is paper


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels: from `left` and `top` to before `right` and `bottom`."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    def scaled(self, factor: float) -> "Box":
        """In a picture `factor` times as large."""
        sides = (self.left, self.top, self.right, self.bottom)
        return Box(*(round(factor * side) for side in sides))


@dataclass(frozen=True)
class Part:
    """Ink that hangs together.

    Attributes:
        box: around it.
        area: in pixels.
        labels: by which its pixels are known in the label plane.
    """

    box: Box
    area: int
    labels: frozenset[int]

    @classmethod
    def of(cls, parts: Sequence["Part"]) -> "Part":
        """All `parts` as one."""
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


def find_ink(grey: Grey) -> Plane:
    """How much ink is where: float32 ``[height, width]``, 0 is paper and 1 the pen's full colour.

    Dark on light or light on dark, whichever is the smaller part of the picture. Uneven light,
    shadows and the paper's texture are removed. Without any ink, all is 0.
    """
    light = np.divide(grey, 255, dtype=np.float32)
    raised = light - _smooth_surface(light)
    if float((raised**3).mean()) < 0:
        raised, light = -raised, -light
    # No stroke is half as wide as the picture. Once it is known how wide they are, they are told
    # from all that is wider, and the surface, which blurs a shadow's edge, is not needed.
    widest = min(grey.shape) // 2
    ink, threshold = _above_paper(raised, widest)
    if threshold is not None and (narrower := 4 * _pen_width(ink > threshold)) < 0.7 * widest:
        ink, threshold = _above_paper(light, round(narrower))
    if threshold is None:
        return np.zeros_like(ink)
    usual, strong = np.percentile(ink[ink > threshold], [50, 90])
    # A third of the strongest ink is more than a ruled line; half is what a digit in a shadow has.
    ink[~_with_core(ink > strong / 3, ink > strong / 2)] = 0
    # Around the edges lies what a JPEG makes of them, which would count as the digit's own size.
    ink[ink < strong / 6] = 0
    return np.asarray(np.clip(ink / usual, 0, 1), np.float32)


def _above_paper(raised: Plane, widest: int) -> tuple[Plane, float | None]:
    """What rises above its surroundings over less than `widest` pixels, and what of it is ink."""
    ink = raised - _plateaus(raised, widest)
    ink -= np.float32(np.median(ink))
    # Grain is finer than any stroke, and shading is coarser.
    fineness = min(max(min(ink.shape) / 70, 0.6), 3)
    grain = np.abs(ink - cv2.GaussianBlur(ink, (0, 0), fineness))
    deviation = 1.4826 * float(np.median(grain))  # as of a normal distribution
    return ink, _threshold(ink, max(FAINTEST, NOISE * deviation))


def _smooth_surface(light: Plane) -> Plane:
    """The paper's brightness: the quadratic surface that most pixels are near."""
    small = cv2.resize(light, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
    near = np.full_like(small, np.median(small[EDGE]))
    for _ in range(8):
        gap = np.abs(small - near)
        scale = max(float(np.median(gap)), 0.01)
        weight = TRUST / (1 + (gap / scale) ** 2)  # Cauchy's: what is far hardly counts
        weighted = TERMS.T * weight
        solution = np.linalg.solve(weighted @ TERMS, weighted @ small)
        near = TERMS @ solution
    height, width = light.shape
    surface = cv2.resize(near.reshape(GRID, GRID), (width, height), interpolation=cv2.INTER_LINEAR)
    return cast("Plane", surface.astype(np.float32))


def _plateaus(raised: Plane, widest: int) -> Plane:
    """What is raised over `widest` pixels and more, by a morphological opening."""
    height, width = raised.shape
    scale = min(1.0, 128 / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    small = cv2.resize(raised, size, interpolation=cv2.INTER_AREA)
    if min(size) > 40:  # else a stroke is not much wider than the filter
        small = cv2.GaussianBlur(small, (5, 5), 0)
    side = round(scale * widest) | 1
    # Beyond the edge is more of the same, else a stroke that meets it would be a plateau.
    padded = cv2.copyMakeBorder(small, side, side, side, side, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    opened = opened[side:-side, side:-side]
    return cast("Plane", cv2.resize(opened, (width, height), interpolation=cv2.INTER_LINEAR))


def _pen_width(drawn: Mask) -> float:
    """In pixels, of the broader strokes; 0 where nothing is drawn."""
    if not drawn.any():
        return 0
    # A stroke may meet the edge, beyond which there is none.
    padded = np.pad(drawn, 1)
    distance = cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, 5)
    return 2 * float(np.percentile(distance[padded], 95))


def _threshold(ink: Plane, floor: float) -> float | None:
    """What tells ink from paper, which is around 0; None where nothing is above `floor`.

    Source: T. W. Ridler, S. Calvard, "Picture thresholding using an iterative selection method",
    IEEE Transactions on Systems, Man and Cybernetics 8 (1978): midway between the two means.
    """
    above = ink[ink > floor]
    threshold = floor
    for _ in range(20):
        if not above.size:
            return None
        midway = max(floor, float(above.mean()) / 2)
        if midway <= threshold:
            break
        threshold = midway
        above = above[above > threshold]
    return threshold


def _with_core(wide: Mask, core: Mask) -> Mask:
    """The connected parts of `wide` that hold a pixel of `core`, and one pixel around them."""
    _, labels = cv2.connectedComponents(wide.astype(np.uint8), connectivity=8)
    kept = np.zeros(int(labels.max()) + 1, np.bool_)
    kept[labels[core]] = True
    kept[0] = False
    mask = kept[labels].astype(np.uint8)
    return cast("Mask", cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(bool))


def _parts(ink: Plane) -> tuple[list[Part], npt.NDArray[np.int32]]:
    """The connected parts of `ink`, and the plane that says which pixel is of which."""
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


def whole(ink: Plane) -> Plane | None:
    """The ink of a picture that holds one digit, cut out; None where there is none.

    Specks are left out, and what reaches in from the edge beside a digit that does not.
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
    if inside and max(part.area for part in inside) > 0.3 * largest:
        parts = inside
        largest = max(part.area for part in parts)
    digit = Part.of([part for part in parts if part.area > 0.03 * largest])
    return _cut(ink, labels, digit)


def separate(ink: Plane) -> list[list[tuple[Box, Plane]]]:
    """Cut a page of digits into one piece each, with its box: line by line, from left to right.

    Raises:
        PictureError: there are more than `MOST_PARTS`.
    """
    parts, labels = _parts(ink)
    if not parts:
        return []
    # The height of a digit is that of most of the ink, not of most of the parts: dots and crumbs.
    by_height = sorted(parts, key=lambda part: part.box.height)
    passed = np.cumsum([part.area for part in by_height])
    usual = by_height[int(np.searchsorted(passed, passed[-1] / 2))].box.height
    solid = [part for part in parts if max(part.box.height, part.box.width) > 0.15 * usual]
    if len(solid) > MOST_PARTS:
        raise PictureError(
            f"the picture holds {len(solid):,} separate marks, more than the {MOST_PARTS:,} of a "
            "page of digits"
        )
    digits = [
        part
        for part in _joined(solid, usual)
        if part.box.height > 0.4 * usual and part.box.width < 4 * usual
    ]
    return [[(part.box, _cut(ink, labels, part)) for part in line] for line in _lines(digits)]


def _joined(parts: Sequence[Part], usual: int) -> list[Part]:
    """Join what lies over one another within a digit's height, as the bar of a 5 and the rest."""
    joined: list[Part] = []
    for part in sorted(parts, key=lambda part: part.area, reverse=True):
        for place, other in enumerate(joined):
            both = Part.of([other, part])
            shared = part.box.width + other.box.width - both.box.width
            narrower = min(part.box.width, other.box.width)
            if shared > 0.5 * narrower and both.box.height < 1.4 * usual:
                joined[place] = both
                break
        else:
            joined.append(part)
    return joined


def _lines(parts: Sequence[Part]) -> list[list[Part]]:
    """From the top; each from left to right, its digits on a height with the one before."""
    lines: list[list[Part]] = []
    for part in sorted(parts, key=lambda part: part.box.left):
        nearest, most = None, 0.4
        for line in lines:
            last = line[-1].box
            shared = min(part.box.bottom, last.bottom) - max(part.box.top, last.top)
            share = shared / min(part.box.height, last.height)
            if share > most:
                nearest, most = line, share
        if nearest is None:
            lines.append([part])
        else:
            nearest.append(part)
    return sorted(
        lines, key=lambda line: float(np.mean([part.box.top + part.box.bottom for part in line]))
    )


def normalise(digit: Plane) -> Grey:
    """Fit one digit's ink into 28x28 as MNIST has it: uint8, 0 is paper and 255 is ink.

    Args:
        digit: ``[height, width]`` from 0 to 1, cut at the digit's edges.
    """
    if max(digit.shape) > 1.5 * BOX:  # else the strokes are too few pixels wide to be measured
        digit = _usual_pen(digit)
    height, width = digit.shape
    longest = max(height, width)
    scale = BOX / longest
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    if longest != BOX:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        digit = cast("Plane", cv2.resize(digit, size, interpolation=how))
        digit /= digit.max()
    levels = (255 * digit).round().astype(np.uint8)
    height, width = digit.shape
    total = float(digit.sum())
    row = float((digit.sum(axis=1) @ np.arange(height)) / total)
    column = float((digit.sum(axis=0) @ np.arange(width)) / total)
    top, left = (
        min(max(round(IMAGE_SIZE / 2 - centre), 0), IMAGE_SIZE - side)
        for centre, side in ((row, height), (column, width))
    )
    image = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    image[top : top + height, left : left + width] = levels
    return image


def _usual_pen(digit: Plane) -> Plane:
    """The digit as a pen of MNIST's draws it: a finer one's would vanish when made small.

    Of 1,500 validation digits, eight times as large and with strokes broadened by 5 of 20 pixels,
    97.1 % are then read, else 90.9 %; of digits as they are, as many as before.
    """
    longest, width = max(digit.shape), _pen_width(digit > 0.5)
    missing, surplus = round(THINNEST * longest - width), round(width - BROADEST * longest)
    if missing > 0:
        changed = cv2.dilate(np.pad(digit, missing), _brush(missing))
    elif surplus > 0:
        changed = cv2.erode(np.pad(digit, 1), _brush(surplus))
    else:
        return digit
    rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    if not rows.size:  # it has no strokes
        return digit
    return cast("Plane", changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _brush(width: int) -> npt.NDArray[np.uint8]:
    """By which a stroke becomes `width` pixels broader, or finer."""
    size = (width + 1, width + 1)
    return cast("npt.NDArray[np.uint8]", cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size))


def _enlarged(grey: Grey) -> Grey:
    """A small picture in the middle of a sheet of its paper, four times as large, and sharpened.

    The paper is as bright as most of the edge. So small a picture is often cut close to its digit.
    """
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    margin = max(grey.shape) // 2
    sheet = np.pad(grey, margin, constant_values=round(float(np.median(edge))))
    large = cv2.resize(sheet.astype(np.float32), None, fx=4, fy=4, interpolation=cv2.INTER_LANCZOS4)
    sharp = large + SHARPENED * (large - cv2.GaussianBlur(large, (0, 0), BLUR))
    return cast("Grey", sharp.clip(0, 255).round().astype(np.uint8))


def to_mnist(grey: Grey) -> Grey | None:
    """The digit in a picture as MNIST has it, uint8 ``[28, 28]``; None where there is no ink."""
    if max(grey.shape) < SMALL:
        grey = _enlarged(grey)
    digit = whole(find_ink(grey))
    return None if digit is None else normalise(digit)
