import cv2
import numpy as np
import pytest

from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.synthetic.allographs import FORMS, lines_of
from mnist_cnn_train.synthetic.strokes import draw, fit, simplify, skeleton, smooth, trace


def test_a_skeleton_is_thin_connected_and_inside_the_ink(
    small_digits: tuple[Dataset, Dataset],
) -> None:
    for image in small_digits[0].images[:20]:
        ink = cv2.resize(image, (84, 84), interpolation=cv2.INTER_CUBIC) > 127
        thin = skeleton(ink)
        assert not (thin & ~ink).any()
        squares = thin[1:, 1:] & thin[1:, :-1] & thin[:-1, 1:] & thin[:-1, :-1]
        assert squares.sum() <= 2
        parts = [cv2.connectedComponents(one.astype(np.uint8))[0] for one in (ink, thin)]
        assert parts[0] == parts[1]


def test_strokes_run_from_end_to_crossing_and_around_loops() -> None:
    lines = np.zeros((20, 20), np.bool_)
    lines[10, 2:9] = True  # a line
    lines[3, 12:16] = lines[7, 12:16] = lines[3:8, 12] = lines[3:8, 15] = True  # a loop
    lines[12:19, 14] = lines[15, 11:18] = True  # a cross
    strokes = trace(lines)
    assert len(strokes) == 6
    straight = next(one for one in strokes if len(one) == 7)
    assert sorted(straight[:, 0]) == list(range(2, 9))
    assert set(straight[:, 1]) == {10}
    drawn = {(x, y) for stroke in strokes for x, y in stroke.tolist()}
    assert drawn == {(column, row) for row, column in np.argwhere(lines).tolist()}


def test_simplifying_keeps_corners_and_drops_what_is_within_the_tolerance() -> None:
    stroke = np.array([(0, 0), (3, 0.4), (10, 0), (10, 6), (10, 10)], np.float64)
    assert simplify(stroke, 1).tolist() == [[0, 0], [10, 0], [10, 10]]


def test_a_smooth_line_goes_through_its_points() -> None:
    points = np.array([(0, 0), (5, 5), (9, 0), (12, 7)], np.float64)
    assert smooth(points)[::6].tolist() == points.tolist()


@pytest.mark.parametrize("anti_aliased", [True, False])
@pytest.mark.parametrize("square", [True, False])
def test_a_pen_is_as_broad_as_asked_for(anti_aliased: bool, square: bool) -> None:
    for pen in (1, 3, 6):
        picture = draw([np.array([(10.0, 40), (70, 40)])], 80, pen, anti_aliased, square)
        assert set(np.unique(picture)) <= {0, 255} or anti_aliased
        assert (255 - picture[:, 40].astype(int)).sum() / 255 == pytest.approx(pen, abs=0.3)


@pytest.mark.parametrize("label", range(10))
def test_forms_fit_into_their_square(label: int) -> None:
    for form in FORMS[label]:
        points = np.concatenate(fit(lines_of(form), 100, 0.1, 0.8))
        assert points.min() == pytest.approx(10)
        assert points.max() == pytest.approx(90)
