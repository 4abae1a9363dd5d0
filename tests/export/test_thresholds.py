from pathlib import Path

import numpy as np
import onnx

from mnist_cnn.onnxfile.contract import LEAST_LOGITS
from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Digits
from mnist_cnn_train.export.parity import run_logits
from mnist_cnn_train.export.thresholds import (
    NO_BOUND,
    note_least_logits,
    seen_as_pictures,
    to_choose_from,
    to_judge_by,
)


def test_the_bounds_are_chosen_on_other_images_than_the_reader_is_judged_by() -> None:
    digits = Digits(np.arange(100, dtype=np.uint8)[:, None, None], np.arange(100) % 10)
    chosen, judged = to_choose_from(digits), to_judge_by(digits)
    assert len(chosen) == 80
    assert len(judged) == 20
    assert not set(chosen.images.ravel()) & set(judged.images.ravel())


def bounds_of(model: onnx.ModelProto) -> list[float]:
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return [float(bound) for bound in properties[LEAST_LOGITS].split(",")]


def test_of_each_label_at_most_the_share_asked_for_is_below_its_bound(
    trained_model: Path, small_digits: tuple[Digits, Digits]
) -> None:
    model = onnx.load(trained_model)
    before = {entry.key: entry.value for entry in model.metadata_props}
    seen = seen_as_pictures(small_digits[1])
    logits = run_logits(model, seen, as_written=True)
    largest, label = logits.max(axis=1), logits.argmax(axis=1)
    for share in (0.0, 0.1, 0.5):
        note_least_logits(model, seen, share)
        for one, bound in enumerate(bounds_of(model)):
            below = np.mean(largest[label == one] < bound)
            assert share - 0.06 <= below <= share
    after = {entry.key: entry.value for entry in model.metadata_props}
    assert after.keys() == before.keys()
    assert after["labels"] == before["labels"]


def test_of_a_label_that_was_never_read_nothing_is_flagged(
    trained_model: Path, small_digits: tuple[Digits, Digits]
) -> None:
    model = onnx.load(trained_model)
    note_least_logits(model, seen_as_pictures(small_digits[1].take(np.arange(3))), 0.01)
    assert NO_BOUND in bounds_of(model)


def test_of_digits_that_chose_nothing_about_one_in_a_hundred_is_flagged(
    recognizer: Recognizer, judged_digits: Digits
) -> None:
    readings = recognizer.predict_many(judged_digits.images)
    assert np.mean([reading.warning is not None for reading in readings]) < 0.025
