"""Rows of MNIST digits, separate or touching. The same seed gives the same rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mnist_cnn.imaging.load import Gray
from mnist_cnn_train.data.dataset import Dataset

if TYPE_CHECKING:
    from mnist_cnn.reader.recognizer import Recognizer

# By how many pixels neighbors overlap, at least and at most, of an enlarged image.
SEPARATE, TOUCHING, MIXED = (-8, -3), (0, 6), (-4, 6)
ROWS = 500  # to evaluate on
DIGITS = 4
SIDE = 52  # pixels, to which MNIST's images are enlarged
MARGIN = 20
FAINT = 60  # gray levels, up to which a column counts as paper
JITTER = 3  # pixels, up or down


@dataclass(frozen=True)
class DigitRow:
    """A row of digits.

    Attributes:
        labels: the digits' labels, from left to right.
        image: uint8 ``[height, width]``, dark on white.
        middles: the column of each digit's middle.
    """

    labels: list[int]
    image: Gray
    middles: list[float]


def draw_rows(
    digits: Dataset, count: int, overlap: tuple[int, int], seed: int
) -> Iterator[DigitRow]:
    """Draw `count` rows of four of `digits`.

    Args:
        digits: at least four.
        count: number of rows.
        overlap: by how many pixels the bounding boxes of neighbors overlap, at least and at most,
            of an image of 52 x 52; negative for a gap.
        seed: of the choice of digits, their overlap and their height in the row.
    """
    rng = np.random.default_rng(seed)
    least, most = overlap
    for _ in range(count):
        places = rng.choice(len(digits), DIGITS, replace=False)
        shifts = [0, *rng.integers(least, most + 1, DIGITS - 1).tolist()]
        ink = np.zeros((SIDE + 6 * JITTER, DIGITS * (SIDE + max(0, -least)) + 2 * MARGIN), np.uint8)
        left, middles = MARGIN, []
        for place, shift in zip(places, shifts, strict=True):
            digit = _enlarged(digits.images[place])
            left -= shift
            top = 3 * JITTER + int(rng.integers(-JITTER, JITTER + 1))
            window = ink[top : top + SIDE, left : left + digit.shape[1]]
            np.maximum(window, digit, out=window)
            middles.append(left + digit.shape[1] / 2)
            left += digit.shape[1]
        image = 255 - ink[:, : left + MARGIN]
        yield DigitRow(digits.labels[places].tolist(), image, middles)


def evaluate_rows(recognizer: "Recognizer", digits: Dataset) -> dict[str, float]:
    """Return the fraction of rows read without any error: ``separate`` and ``touching`` digits."""
    return {
        name: mean(
            [prediction.label for prediction in recognizer.read(row.image)]
            == [digits.names[label] for label in row.labels]
            for row in draw_rows(digits, ROWS, overlap, seed=0)
        )
        for name, overlap in (("separate", SEPARATE), ("touching", TOUCHING))
    }


def _enlarged(image: Gray) -> Gray:
    """Enlarge an MNIST image, and crop it to the columns of its digit."""
    large = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(large)
    inked = np.flatnonzero(pixels.max(axis=0) > FAINT)
    return pixels[:, inked[0] : inked[-1] + 1]
