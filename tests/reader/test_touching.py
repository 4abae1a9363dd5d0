import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mnist_cnn.imaging.box import Box
from mnist_cnn.imaging.cuts import Pieces
from mnist_cnn.imaging.ink import find_ink
from mnist_cnn.imaging.segment import separate
from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn.reader.touching import best_row
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.picture_suite import dejavu_fonts
from mnist_cnn_train.evaluation.rows import SEPARATE, TOUCHING, draw_rows


def read_exactly(digits: Dataset, overlap: tuple[int, int], count: int) -> float:
    reader = Recognizer()
    rows = draw_rows(digits, count, overlap, seed=3)
    return float(
        np.mean(
            [[int(one.label or -1) for one in reader.read(row.image)] == row.labels for row in rows]
        )
    )


@pytest.mark.slow
def test_digits_that_touch_are_read_one_by_one(holdout_digits: Dataset) -> None:
    assert read_exactly(holdout_digits, TOUCHING, 20) >= 0.7


def test_separate_digits_are_left_whole(holdout_digits: Dataset) -> None:
    assert read_exactly(holdout_digits, SEPARATE, 20) >= 0.9


def test_a_page_of_letters_is_not_taken_apart() -> None:
    page = Image.new("L", (900, 300), 255)
    font = ImageFont.truetype(dejavu_fonts()[0], 30)
    ImageDraw.Draw(page).text(
        (20, 20), 5 * "Six quick foxes jump over a dog\n", 0, font, spacing=20
    )
    marks = [mark for line in separate(find_ink(np.asarray(page))) for mark in line]
    assert len(marks) > 100
    assert len(Recognizer().read(page)) == len(marks)


def test_boxes_of_digits_that_touch_follow_one_another(holdout_digits: Dataset) -> None:
    (row,) = draw_rows(holdout_digits, 1, TOUCHING, seed=4)
    boxes = [one.box for one in Recognizer().read(row.image) if one.box]
    assert len(boxes) == 4
    for box, middle in zip(boxes, row.middles, strict=True):
        assert box.left < middle < box.right


def test_the_row_with_the_largest_total_reaches_from_end_to_end() -> None:
    ends = np.array([(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (0, 3)])
    pieces = Pieces(
        cuts=4,
        ends=ends,
        images=np.zeros((6, 28, 28), np.uint8),
        boxes=6 * [Box(0, 0, 1, 1)],
        features=np.zeros((6, 1)),
    )
    assert best_row(pieces, np.array([-1.0, -5, -1, -4, -1, -3.5])) == [0, 2, 4]
    assert best_row(pieces, np.array([-1.0, -5, -1, -4, -1, -2.5])) == [5]
    cut_off = Pieces(4, ends[:3], pieces.images[:3], pieces.boxes[:3], pieces.features[:3])
    assert best_row(cut_off, np.zeros(3)) == []
