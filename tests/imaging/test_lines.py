"""Digits on ruled paper and in grids, each page made of validation digits."""

import numpy as np
import numpy.typing as npt
import pytest
from conftest import page
from PIL import Image, ImageDraw

from mnist_cnn.imaging.ink import find_ink
from mnist_cnn.imaging.lines import without_rules
from mnist_cnn.imaging.load import load_gray
from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Dataset

CELL = 56


def drawn(images: npt.NDArray[np.uint8], lines: Image.Image, angle: float = 0) -> Image.Image:
    """Digits in rows, as many across as down, on a drawing of lines, dark on a light page."""
    ink, across = np.array(lines), round(len(images) ** 0.5)
    for place, image in enumerate(images):
        digit = np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC))
        top, left = (24 + CELL * number for number in divmod(place, across))
        window = ink[top : top + 48, left : left + 48]
        np.maximum(window, digit, out=window)
    turned = np.asarray(Image.fromarray(ink).rotate(angle, Image.Resampling.BICUBIC), float)
    grain = np.random.default_rng(0).normal(scale=4, size=turned.shape)
    return Image.fromarray((240 - 0.8 * turned + grain).clip(0, 255).astype(np.uint8))


def grid(cells: int) -> Image.Image:
    lines = Image.new("L", (40 + cells * CELL, 40 + cells * CELL))
    draw, last = ImageDraw.Draw(lines), 20 + cells * CELL
    for place in range(20, last + 1, CELL):
        draw.line((20, place, last, place), fill=210, width=3)
        draw.line((place, 20, place, last), fill=210, width=3)
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0, 1.5])
def test_the_digits_of_a_sudoku_are_read_with_their_cells(
    angle: float, holdout_digits: Dataset
) -> None:
    read = Recognizer().read(drawn(holdout_digits.images[:81], grid(9), angle))
    cells = [divmod(place, 9) for place in range(81)]
    assert [one.cell for one in read] == [(row + 1, col + 1) for row, col in cells]
    labels = [int(one.label or -1) for one in read]
    assert (np.array(labels) == holdout_digits.labels[:81]).sum() >= 78


def test_digits_written_across_ruled_lines_are_read(holdout_digits: Dataset) -> None:
    lines = Image.new("L", (40 + 5 * CELL, 40 + 5 * CELL))
    for y in range(10, lines.height, 35):
        ImageDraw.Draw(lines).line((0, y, lines.width, y), fill=200, width=3)
    read = Recognizer().read(drawn(holdout_digits.images[:25], lines))
    assert len(read) == 25
    labels = [int(one.label or -1) for one in read]
    assert (np.array(labels) == holdout_digits.labels[:25]).sum() >= 22
    assert {one.cell for one in read} == {None}


def test_a_page_without_lines_keeps_all_its_ink() -> None:
    for rows in (["31415", "926"], ["1111111", "777"]):
        ink = find_ink(load_gray(page(rows)[0]))
        assert without_rules(ink).ink is ink
