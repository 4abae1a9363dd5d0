"""Separate ink from paper in gray levels."""

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from mnist_cnn.imaging.load import Gray

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
MIN_CONTRAST = 0.08  # least contrast of ink, as a fraction of the range from black to white
NOISE = 5.0  # least contrast of ink, in standard deviations of the paper's grain

# The grid of points on which the paper is estimated, and a quadratic surface's terms there.
GRID = 24
_ROW, _COLUMN = (axis.ravel() for axis in np.mgrid[-1 : 1 : GRID * 1j, -1 : 1 : GRID * 1j])
TERMS = np.stack([np.ones_like(_ROW), _ROW, _COLUMN, _ROW**2, _ROW * _COLUMN, _COLUMN**2], axis=-1)
EDGE = np.maximum(np.abs(_ROW), np.abs(_COLUMN)) > 0.85
TRUST = np.where(EDGE, 1.0, 0.1)  # the border of a picture is most likely paper


def find_ink(gray: Gray) -> Plane:
    """Return the amount of ink per pixel, float32 ``[height, width]``: 0 is paper, 1 is full ink.

    Ink may be dark on light or light on dark: it is whichever covers less of the picture. Uneven
    light, shadows and the paper's texture are removed. Without any ink, all is 0.
    """
    light = np.divide(gray, 255, dtype=np.float32)
    raised = light - _smooth_surface(light)
    if float((raised**3).mean()) < 0:
        raised, light = -raised, -light
    # No stroke is half as wide as the picture. Once the stroke width is known, everything wider
    # is removed; that works on the light itself, as the surface would blur a shadow's edge.
    widest = min(gray.shape) // 2
    ink, threshold = _above_paper(raised, widest)
    if threshold is not None and (narrower := 4 * pen_width(ink > threshold)) < 0.7 * widest:
        ink, threshold = _above_paper(light, round(narrower))
    if threshold is None:
        return np.zeros_like(ink)
    usual, strong = np.percentile(ink[ink > threshold], [50, 90])
    # Ruled lines have less than a third of the strongest ink; digits in a shadow reach half.
    ink[~with_core(ink > strong / 3, ink > strong / 2)] = 0
    # Remove JPEG artifacts around strokes, which would count towards the digit's size.
    ink[ink < strong / 6] = 0
    return np.asarray(np.clip(ink / usual, 0, 1), np.float32)


def _above_paper(raised: Plane, widest: int) -> tuple[Plane, float | None]:
    """Return what is raised over less than `widest` pixels; and ink's threshold, None if no ink."""
    ink = raised - _plateaus(raised, widest)
    ink -= np.float32(np.median(ink))
    # Grain is finer than any stroke, and shading is coarser.
    fineness = min(max(min(ink.shape) / 70, 0.6), 3)
    grain = np.abs(ink - cv2.GaussianBlur(ink, (0, 0), fineness))
    deviation = 1.4826 * float(np.median(grain))  # for a normal distribution
    return ink, _threshold(ink, max(MIN_CONTRAST, NOISE * deviation))


def _smooth_surface(light: Plane) -> Plane:
    """Estimate the paper's brightness by a robust fit of a quadratic surface."""
    small = cv2.resize(light, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
    near = np.full_like(small, np.median(small[EDGE]))
    for _ in range(8):
        gap = np.abs(small - near)
        scale = max(float(np.median(gap)), 0.01)
        weight = TRUST / (1 + (gap / scale) ** 2)  # Cauchy weights: outliers hardly count
        weighted = TERMS.T * weight
        solution = np.linalg.solve(weighted @ TERMS, weighted @ small)
        near = TERMS @ solution
    height, width = light.shape
    surface = cv2.resize(near.reshape(GRID, GRID), (width, height), interpolation=cv2.INTER_LINEAR)
    return cast("Plane", surface.astype(np.float32))


def _plateaus(raised: Plane, widest: int) -> Plane:
    """Keep only what is at least `widest` pixels wide, by a morphological opening."""
    height, width = raised.shape
    scale = min(1.0, 128 / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    small = cv2.resize(raised, size, interpolation=cv2.INTER_AREA)
    if min(size) > 40:  # otherwise a stroke is not much wider than the filter
        small = cv2.GaussianBlur(small, (5, 5), 0)
    side = round(scale * widest) | 1
    # Replicate the border, or a stroke that touches it would be a plateau.
    padded = cv2.copyMakeBorder(small, side, side, side, side, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    opened = opened[side:-side, side:-side]
    return cast("Plane", cv2.resize(opened, (width, height), interpolation=cv2.INTER_LINEAR))


def pen_width(drawn: Mask) -> float:
    """Return the width, in pixels, of the broader strokes; 0 if nothing is drawn."""
    if not drawn.any():
        return 0
    # Strokes end at the edge of the picture.
    padded = np.pad(drawn, 1)
    distance = cv2.distanceTransform(padded.astype(np.uint8), cv2.DIST_L2, 5)
    return 2 * float(np.percentile(distance[padded], 95))


def _threshold(ink: Plane, floor: float) -> float | None:
    """Find the threshold between ink and paper, which is around 0; None if all is below `floor`.

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


def with_core(wide: Mask, core: Mask) -> Mask:
    """Keep the connected parts of `wide` that contain a pixel of `core`; dilate them by a pixel."""
    _, labels = cv2.connectedComponents(wide.astype(np.uint8), connectivity=8)
    kept = np.zeros(int(labels.max()) + 1, np.bool_)
    kept[labels[core]] = True
    kept[0] = False
    mask = kept[labels].astype(np.uint8)
    return cast("Mask", cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(bool))
