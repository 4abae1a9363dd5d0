"""Pictures whose plain reading is no digit, each made of validation digits."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_cnn.imaging.alternatives import alternatives
from mnist_cnn.reader.recognizer import NO_DIGIT, SEVERAL, Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.fooled import DIGIT_KINDS


@pytest.fixture(scope="module")
def shipped() -> Recognizer:
    return Recognizer()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "accuracy"),
    [("on a desk", 0.93), ("in a frame", 0.93), ("between rules", 0.9), ("cropped closely", 0.88)],
)
def test_what_hides_a_digit_is_seen_through(
    kind: str, accuracy: float, shipped: Recognizer, holdout_digits: Dataset
) -> None:
    rng, draw = np.random.default_rng(0), DIGIT_KINDS[kind]
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
