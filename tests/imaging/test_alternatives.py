"""Pictures whose plain reading is no digit, each made of validation digits."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from mnist_cnn.imaging.alternatives import alternatives
from mnist_cnn.reader.recognizer import NO_DIGIT, SEVERAL, Recognizer
from mnist_cnn_train.data.dataset import Dataset

Gray = npt.NDArray[np.uint8]
Kind = Callable[[Gray, np.random.Generator], Image.Image]


@pytest.fixture(scope="module")
def shipped() -> Recognizer:
    return Recognizer()


def on_a_sheet(image: Gray, rng: np.random.Generator) -> Image.Image:
    """In the middle of a sheet, in 200 x 200 pixels, with the grain of a photograph."""
    sheet = Image.new("L", (28, 28))
    sheet.paste(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC), (4, 4))
    large = np.asarray(sheet.resize((200, 200), Image.Resampling.BICUBIC), float)
    grain = rng.normal(scale=3, size=(200, 200))
    return Image.fromarray((235 * (1 - large / 255) + grain).clip(0, 255).astype(np.uint8))


def on_a_desk(image: Gray, rng: np.random.Generator) -> Image.Image:
    desk = Image.new("L", (300, 300), 60)
    desk.paste(on_a_sheet(image, rng), (50, 50))
    return desk.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC, fillcolor=60)


def in_a_frame(image: Gray, rng: np.random.Generator) -> Image.Image:
    picture, margin = on_a_sheet(image, rng), int(rng.integers(3, 14))
    corners = (margin, margin, 199 - margin, 199 - margin)
    ImageDraw.Draw(picture).rectangle(corners, outline=40, width=int(rng.integers(2, 6)))
    return picture


def on_rules(image: Gray, rng: np.random.Generator) -> Image.Image:
    picture = on_a_sheet(image, rng)
    for y in (20, 100, 180):
        ImageDraw.Draw(picture).line((0, y, 199, y), fill=70, width=3)
    return picture


def cropped_closely(image: Gray, rng: np.random.Generator) -> Image.Image:
    left, top, right, bottom = Image.fromarray(image).getbbox() or (0, 0, 28, 28)
    tight = Image.fromarray(255 - image).crop((left, top, right, bottom))
    return tight.resize((8 * tight.width, 8 * tight.height), Image.Resampling.BICUBIC)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "accuracy"),
    [(on_a_desk, 0.93), (in_a_frame, 0.93), (on_rules, 0.9), (cropped_closely, 0.88)],
)
def test_what_hides_a_digit_is_seen_through(
    draw: Kind, accuracy: float, shipped: Recognizer, holdout_digits: Dataset
) -> None:
    rng = np.random.default_rng(0)
    few = holdout_digits.take(np.arange(0, 1_000, 5))
    read = list(shipped.predict_many(draw(image, rng) for image in few.images))
    labels = np.array([int(prediction.label or -1) for prediction in read])
    doubted = np.array([prediction.warning is not None for prediction in read])
    assert ((labels == few.labels) & ~doubted).mean() >= accuracy


def test_a_plain_picture_has_no_alternatives(holdout_digits: Dataset) -> None:
    picture = np.pad(255 - holdout_digits.images[0], 30, constant_values=255)
    assert list(alternatives(picture)) == []


def test_letters_stay_letters(shipped: Recognizer) -> None:
    for lines in ([(30, 12, 26, 90), (74, 12, 70, 90), (18, 52, 84, 46)], [(5, 50, 95, 50)]):
        picture = Image.new("L", (100, 100), 255)
        for line in lines:
            ImageDraw.Draw(picture).line(line, fill=0, width=8)
        assert shipped.predict(picture).warning == NO_DIGIT


def test_several_digits_in_one_picture_are_said_to_be_several(
    shipped: Recognizer, holdout_digits: Dataset
) -> None:
    pairs = zip(holdout_digits.images, shipped.classify(holdout_digits.images[:20]), strict=False)
    clear = [image for image, prediction in pairs if prediction.warning is None]
    row = np.hstack(clear[:3])
    assert shipped.predict(255 - np.pad(row, 20)).warning == SEVERAL
