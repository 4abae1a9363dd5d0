from time import process_time

import cv2
import numpy as np
import pytest
from conftest import page
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw

from mnist_cnn.imaging.ink import find_ink
from mnist_cnn.imaging.load import load_gray
from mnist_cnn.imaging.normalize import BOX, normalize, to_mnist
from mnist_cnn.imaging.segment import separate
from mnist_cnn_train.data.dataset import Dataset

GRAIN = np.random.default_rng(0).normal(scale=4, size=(200, 200))


def drawn(
    size: tuple[int, int] = (200, 200), paper: int = 230, ink: int = 30, pen: int = 14
) -> np.ndarray:
    """A picture of a "7"."""
    image = Image.new("L", size, paper)
    points = [(70, 50), (130, 50), (90, 150)]
    ImageDraw.Draw(image).line(points, fill=ink, width=pen, joint="curve")
    return np.asarray(image)


def seen(picture: np.ndarray) -> np.ndarray:
    """The digit as MNIST has it, in integers that can be subtracted."""
    image = to_mnist(picture.clip(0, 255).astype(np.uint8))
    assert image is not None
    return image.astype(int)


def littered() -> np.ndarray:
    picture = drawn().copy()
    picture[20:24, 20:24] = 30
    picture[:, 190:] = 60
    return picture


def test_a_digit_of_mnist_stays_nearly_as_it_is(holdout_digits: Dataset) -> None:
    changes = [np.abs(seen(image) - image).mean() for image in holdout_digits.images[:100]]
    assert np.mean(changes) < 3  # of 255


def test_a_digit_fits_the_box_and_is_centered_by_its_mass() -> None:
    image = seen(drawn())
    rows, columns = np.nonzero(image.any(axis=1))[0], np.nonzero(image.any(axis=0))[0]
    assert np.ptp(rows) + 1 == BOX
    assert np.ptp(columns) + 1 < BOX
    assert image.max() == 255
    center = (np.indices((28, 28)) * image).sum(axis=(1, 2)) / image.sum()
    assert center == pytest.approx([14, 14], abs=0.51)


@pytest.mark.parametrize(
    ("picture", "limit"),
    [
        pytest.param(drawn(paper=255, ink=0), 2, id="black on white"),
        pytest.param(drawn(paper=0, ink=255), 2, id="white on black"),
        pytest.param(drawn(paper=200, ink=120), 2, id="pale on gray"),
        pytest.param(drawn(paper=60, ink=130), 2, id="light on dark"),
        pytest.param(cv2.resize(drawn((400, 300)), (1200, 900)), 4, id="large and off center"),
        pytest.param(drawn() * np.linspace(0.4, 1, 200) + GRAIN, 4, id="uneven light and grain"),
        pytest.param(drawn() * np.where(np.arange(200) < 120, 1, 0.6), 8, id="a hard shadow"),
        pytest.param(littered(), 4, id="a speck and the edge of a table"),
    ],
)
def test_a_digit_looks_alike_however_it_is_photographed(picture: np.ndarray, limit: int) -> None:
    assert np.abs(seen(drawn()) - seen(picture)).mean() < limit


def test_a_fine_pen_leaves_as_much_ink_as_in_mnist() -> None:
    assert seen(drawn(pen=2)).sum() > 0.5 * seen(drawn(pen=10)).sum()


def test_a_fine_stroke_that_fills_its_cut_is_broadened_too() -> None:
    ink = normalize(np.ones((200, 4), np.float32)) / 255
    assert ink.sum() > 1.5 * BOX


def test_a_pen_of_one_pixel_does_not_fade_in_a_small_picture(holdout_digits: Dataset) -> None:
    image = Image.new("L", (36, 36), 255)
    ImageDraw.Draw(image).line([(5, 3), (30, 3), (14, 32)], fill=0)
    picture = np.asarray(image)
    faded = to_mnist(picture, medium=0)
    assert faded is not None
    assert seen(picture).sum() > 1.2 * faded.sum()
    for digit in holdout_digits.images[:100]:  # are of the usual size already
        np.testing.assert_array_equal(to_mnist(digit), to_mnist(digit, medium=0))


def test_a_large_blot_is_quick() -> None:
    paper = Image.new("L", (2_000, 2_000), 255)
    ImageDraw.Draw(paper).polygon([(1_000, 50), (1_950, 1_950), (50, 1_950)], fill=0)
    start = process_time()
    assert to_mnist(np.asarray(paper)) is not None
    assert process_time() - start < 3  # some 40 seconds at full size


def test_a_broad_pen_leaves_less_ink_than_it_drew(holdout_digits: Dataset) -> None:
    shares = []
    for image in holdout_digits.images[:100]:
        large = cv2.resize(image, (224, 224), interpolation=cv2.INTER_CUBIC)
        broad = cv2.dilate(large, np.ones((33, 33), np.uint8))
        shares.append(seen(broad).sum() / image.sum())
    assert np.mean(shares) < 1.85  # 2.2 if it stayed as broad


def test_what_has_no_strokes_is_not_thinned_away() -> None:
    paper = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(paper).ellipse([60, 60, 130, 130], fill=0)
    assert (seen(np.asarray(paper)) > 127).sum() > 150


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (28, 28), (300, 200)])
def test_one_color_holds_no_ink(level: int, size: tuple[int, int]) -> None:
    assert to_mnist(np.full(size, level, np.uint8)) is None


def test_noise_on_unevenly_lit_paper_holds_no_ink() -> None:
    paper = np.linspace(120, 220, 200)[:, None] + GRAIN
    assert to_mnist(paper.astype(np.uint8)) is None


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_any_picture_gives_a_28_by_28_image_or_none(gray: np.ndarray) -> None:
    image = to_mnist(gray)
    assert image is None or (image.shape == (28, 28) and image.dtype == np.uint8 and image.any())
    for line in separate(find_ink(gray)):
        for box, digit in line:
            assert digit.shape == (box.height, box.width)
            assert normalize(digit).shape == (28, 28)


def test_the_loose_bar_of_a_five_belongs_to_it() -> None:
    image = Image.new("L", (300, 140), 255)
    draw = ImageDraw.Draw(image)
    draw.line([(100, 30), (150, 30)], fill=0, width=8)  # the bar, with a gap below
    draw.line([(102, 44), (100, 70), (140, 75), (145, 105), (100, 110)], fill=0, width=8)
    draw.line([(220, 30), (220, 110)], fill=0, width=8)
    ((first, second),) = separate(find_ink(np.asarray(image)))
    assert first[0].height > 80
    assert second[0].left > 200


def test_a_crowded_page_is_taken_apart_in_a_moment() -> None:
    gray = np.full((45, 40, 40, 40), 255, np.uint8)
    gray[:, 8:34, :, 10:14] = 0
    ink = find_ink(gray.reshape(1_800, 1_600))
    begun = process_time()
    lines = separate(ink)
    assert process_time() - begun < 2  # comparing all pairs takes several times as long
    assert [len(line) for line in lines] == 45 * [40]


def test_dots_and_rules_on_a_page_are_no_digits() -> None:
    image, _ = page(["123"])
    draw = ImageDraw.Draw(image)
    draw.line([(5, 130), (285, 130)], fill=90, width=3)
    draw.ellipse([260, 20, 266, 26], fill=40)
    assert [len(line) for line in separate(find_ink(load_gray(image)))] == [3]


def test_a_small_zero_beside_a_tall_stroke_counts_and_a_blot_does_not() -> None:
    image = Image.new("L", (300, 140), 255)
    draw = ImageDraw.Draw(image)
    draw.line([(60, 20), (60, 120), (90, 120)], fill=0, width=10)
    draw.ellipse([120, 90, 150, 122], outline=0, width=6)
    draw.ellipse([200, 92, 224, 118], fill=0)
    ((tall, small),) = separate(find_ink(np.asarray(image)))
    assert tall[0].left < small[0].left == pytest.approx(120, abs=3)


def test_the_dark_edge_of_the_paper_is_no_digit_and_a_digit_beside_it_is() -> None:
    image, _ = page(["123"])
    ImageDraw.Draw(image).rectangle((image.width - 4, 0, image.width, image.height), fill=30)
    assert [len(line) for line in separate(find_ink(load_gray(image)))] == [3]
    close = image.crop(
        (45, 0, image.width, image.height)
    )  # its first digit meets the picture's edge
    assert [len(line) for line in separate(find_ink(load_gray(close)))] == [3]
