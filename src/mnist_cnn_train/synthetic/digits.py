"""Synthetic digits: from fonts, in shapes that MNIST rarely has, and MNIST's own redrawn."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mnist_cnn.core.mnist import IMAGE_SIZE, LABELS
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.synthetic.allographs import FORMS, lines_of
from mnist_cnn_train.synthetic.strokes import (
    Gray,
    Line,
    Random,
    draw,
    fit,
    simplify,
    skeleton,
    smooth,
    trace,
    wobble,
)

Font = ImageFont.FreeTypeFont
Thing = TypeVar("Thing")
ENLARGED = 3  # before an image is thinned, so that its strokes keep their curves


def pick(things: Sequence[Thing], rng: Random) -> Thing:
    """Choose one of `things` uniformly."""
    return things[int(rng.integers(len(things)))]


def write(text: str, font: Font, rng: Random) -> Gray:
    """Write `text` in the middle of a white sheet, rotated by a few degrees and slightly bent."""
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left, bottom - top
    side = round(1.5 * max(width, height))
    picture = Image.new("L", (side, side), 255)
    place = ((side - width) / 2 - left, (side - height) / 2 - top)
    ImageDraw.Draw(picture).text(place, text, fill=0, font=font)
    turned = picture.rotate(rng.normal(scale=5), Image.Resampling.BICUBIC, fillcolor=255)
    return bend(np.asarray(turned), rng.uniform(0, 0.04), rng)


def bend(picture: Gray, amount: float, rng: Random) -> Gray:
    """Distort `picture` elastically, by about `amount` of its side.

    Source: P. Simard et al., "Best practices for convolutional neural networks applied to visual
    document analysis", ICDAR 2003.
    """
    height, width = picture.shape
    moves = rng.normal(scale=amount * max(height, width), size=(2, 5, 5)).astype(np.float32)
    right, down = (cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in moves)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    bent = cv2.remap(
        picture, columns + right, rows + down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return bent.astype(np.uint8)


def sketch(lines: Sequence[Line], aspect: float, rng: Random) -> Gray:
    """Draw `lines` as people's tools do: with various pens, in pictures of various sizes."""
    side = int(rng.choice([28, 28, 28, 36, 48, 64, 100, 140]))
    pen = rng.uniform(1, 1 + 0.13 * side)
    if side < 40 and rng.random() < 0.5:
        pen = float(rng.integers(1, 5))
    lines = fit(lines, side, rng.uniform(0.1, 0.25), aspect)
    return draw(lines, side, pen, rng.random() < 0.5, rng.random() < 0.5)


def shrink(picture: Gray, rng: Random) -> Gray:
    """Reduce some pictures to 10 to 24 pixels, as in thumbnails and older data sets."""
    if rng.random() > 0.2:
        return picture
    height, width = picture.shape
    scale = rng.uniform(10, 24) / max(height, width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def from_font(fonts: Sequence[Font], rng: Random) -> tuple[Gray, int]:
    """Draw a digit of one of `fonts`, and return its label, too."""
    label = int(rng.integers(len(LABELS)))
    return shrink(write(str(label), pick(fonts, rng), rng), rng), label


def from_form(rng: Random) -> tuple[Gray, int]:
    """Draw a digit in one of `FORMS`, each as likely, and return its label, too."""
    label, form = pick([(label, form) for label, forms in FORMS.items() for form in forms], rng)
    lines = wobble(lines_of(form), 0.035, rng)
    if rng.random() < 0.5:
        lines = [smooth(line) for line in lines]
    return sketch(lines, rng.uniform(0.6, 1.1), rng), label


def redrawn(digits: Dataset, rng: Random) -> tuple[Gray, int]:
    """Draw the strokes of one of `digits` with another pen and corners; return its label, too."""
    place = int(rng.integers(len(digits)))
    image, label = digits.images[place], int(digits.labels[place])
    side = ENLARGED * IMAGE_SIZE
    large = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    strokes = trace(skeleton(large > 127))
    tolerance = rng.uniform(0.03, 0.12)
    lines = [simplify(one, tolerance * max(float(np.ptp(one, axis=0).max()), 8)) for one in strokes]
    return shrink(sketch(wobble(lines, 0.01, rng), 1.0, rng), rng), label
