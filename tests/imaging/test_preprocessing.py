import cv2
import numpy as np
import pytest
from conftest import page
from hypothesis import given
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw

from mnist_cnn.imaging.box import Box
from mnist_cnn.imaging.ink import find_ink
from mnist_cnn.imaging.load import PictureError, load_gray
from mnist_cnn.imaging.normalize import BOX, normalize, to_mnist
from mnist_cnn.imaging.segment import separate
from mnist_cnn_train.data.dataset import Dataset


def drawn(
    size: tuple[int, int] = (200, 200), paper: int = 230, ink: int = 30, pen: int = 14
) -> np.ndarray:
    """A picture of a "7"."""
    image = Image.new("L", size, paper)
    points = [(70, 50), (130, 50), (90, 150)]
    ImageDraw.Draw(image).line(points, fill=ink, width=pen, joint="curve")
    return np.asarray(image)


def test_a_digit_of_mnist_stays_nearly_as_it_is(holdout_digits: Dataset) -> None:
    changes = []
    for image in holdout_digits.images[:100]:
        seen = to_mnist(image)
        assert seen is not None
        changes.append(np.abs(seen.astype(int) - image).mean())
    assert np.mean(changes) < 3  # of 255


def test_a_digit_fits_the_box_and_is_centred_by_its_mass() -> None:
    seen = to_mnist(drawn())
    assert seen is not None
    rows, columns = np.nonzero(seen.any(axis=1))[0], np.nonzero(seen.any(axis=0))[0]
    assert np.ptp(rows) + 1 == BOX
    assert np.ptp(columns) + 1 < BOX
    assert seen.max() == 255
    weights = seen / seen.sum()
    center = [float((np.indices((28, 28))[axis] * weights).sum()) for axis in (0, 1)]
    assert center == pytest.approx([14, 14], abs=0.51)


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (200, 120), (60, 130)])
def test_dark_on_light_and_light_on_dark_look_alike(paper: int, ink: int) -> None:
    expected, seen = to_mnist(drawn()), to_mnist(drawn(paper=paper, ink=ink))
    assert expected is not None
    assert seen is not None
    assert np.abs(expected.astype(int) - seen).mean() < 2


def test_size_and_place_in_the_picture_do_not_matter() -> None:
    expected = to_mnist(drawn())
    large = Image.fromarray(drawn(size=(400, 300))).resize((1200, 900), Image.Resampling.BICUBIC)
    seen = to_mnist(np.asarray(large))
    assert expected is not None
    assert seen is not None
    assert np.abs(expected.astype(int) - seen).mean() < 4


def test_uneven_light_and_grain_are_removed(rng: np.random.Generator) -> None:
    across = np.linspace(0.4, 1, 200)
    picture = drawn() * across + rng.normal(scale=4, size=(200, 200))
    expected, seen = to_mnist(drawn()), to_mnist(picture.clip(0, 255).astype(np.uint8))
    assert expected is not None
    assert seen is not None
    assert np.abs(expected.astype(int) - seen).mean() < 4


def test_a_shadow_with_a_hard_edge_is_no_ink() -> None:
    picture = drawn().astype(float)
    picture[:, 120:] *= 0.6
    expected, seen = to_mnist(drawn()), to_mnist(picture.astype(np.uint8))
    assert expected is not None
    assert seen is not None
    assert np.abs(expected.astype(int) - seen).mean() < 8


def test_specks_and_the_edge_of_a_table_are_left_out() -> None:
    picture = drawn().copy()
    picture[20:24, 20:24] = 30
    picture[:, 190:] = 60
    expected, seen = to_mnist(drawn()), to_mnist(picture)
    assert expected is not None
    assert seen is not None
    assert np.abs(expected.astype(int) - seen).mean() < 4


def test_a_fine_pen_leaves_as_much_ink_as_in_mnist() -> None:
    fine, usual = to_mnist(drawn(pen=2)), to_mnist(drawn(pen=10))
    assert fine is not None
    assert usual is not None
    assert fine.sum() > 0.5 * usual.sum()


def test_a_fine_stroke_that_fills_its_cut_is_broadened_too() -> None:
    ink = normalize(np.ones((200, 4), np.float32)) / 255
    assert ink.sum() > 1.5 * BOX


def test_a_broad_pen_leaves_less_ink_than_it_drew(holdout_digits: Dataset) -> None:
    shares = []
    for image in holdout_digits.images[:100]:
        large = cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC)
        seen = to_mnist(cv2.dilate(large, np.ones((33, 33), np.uint8)))
        assert seen is not None
        shares.append(seen.sum() / image.sum())
    assert np.mean(shares) < 1.85  # 2.2 if it stayed as broad


def test_what_has_no_strokes_is_not_thinned_away() -> None:
    paper = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(paper).ellipse([60, 60, 130, 130], fill=0)
    seen = to_mnist(np.asarray(paper))
    assert seen is not None
    assert (seen > 127).sum() > 150


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (28, 28), (300, 200)])
def test_one_color_holds_no_ink(level: int, size: tuple[int, int]) -> None:
    assert to_mnist(np.full(size, level, np.uint8)) is None


def test_noise_on_unevenly_lit_paper_holds_no_ink(rng: np.random.Generator) -> None:
    light = np.linspace(120, 220, 200)[:, None] + rng.normal(scale=4, size=(200, 200))
    assert to_mnist(light.clip(0, 255).astype(np.uint8)) is None


@given(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))
)
def test_any_picture_gives_a_28_by_28_image_or_none(gray: np.ndarray) -> None:
    seen = to_mnist(gray)
    assert seen is None or (seen.shape == (28, 28) and seen.dtype == np.uint8 and seen.max() > 0)
    for line in separate(find_ink(gray)):
        for box, digit in line:
            assert digit.shape == (box.height, box.width)
            assert normalize(digit).shape == (28, 28)


def test_a_page_is_cut_into_its_digits_line_by_line() -> None:
    image, expected = page(["31415", "926", "5358979"])
    lines = separate(find_ink(load_gray(image)))
    assert [len(line) for line in lines] == [5, 3, 7]
    for found_line, expected_line in zip(lines, expected, strict=True):
        for (found, _), box in zip(found_line, expected_line, strict=True):
            assert abs(found.left - box.left) <= 4
            assert abs(found.right - box.right) <= 4


def test_the_loose_bar_of_a_five_belongs_to_it() -> None:
    image = Image.new("L", (300, 140), 255)
    draw = ImageDraw.Draw(image)
    draw.line([(100, 30), (150, 30)], fill=0, width=8)  # the bar, with a gap below
    draw.line([(102, 44), (100, 70), (140, 75), (145, 105), (100, 110)], fill=0, width=8)
    draw.line([(220, 30), (220, 110)], fill=0, width=8)
    ((first, second),) = separate(find_ink(np.asarray(image)))
    assert first[0].height > 80
    assert second[0].left > 200


def test_dots_and_rules_on_a_page_are_no_digits() -> None:
    image, _ = page(["123"])
    draw = ImageDraw.Draw(image)
    draw.line([(5, 130), (285, 130)], fill=90, width=3)
    draw.ellipse([260, 20, 266, 26], fill=40)
    lines = separate(find_ink(load_gray(image)))
    assert [len(line) for line in lines] == [3]


def test_a_page_of_nothing_but_marks_is_refused(rng: np.random.Generator) -> None:
    speckled = (rng.random((400, 400)) < 0.02).astype(np.uint8)
    gray = 255 - 255 * np.kron(speckled, np.ones((4, 4), np.uint8))
    with pytest.raises(PictureError, match="separate marks"):
        separate(find_ink(gray))
    assert to_mnist(gray) is not None  # as one digit it is strange, but quickly made


def test_a_box_in_a_larger_picture() -> None:
    assert Box(1, 2, 3, 4).scaled(2.0) == Box(2, 4, 6, 8)
