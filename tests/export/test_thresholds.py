from pathlib import Path

import numpy as np
import onnx

from mnist_cnn.onnxfile.contract import LOGIT_THRESHOLDS_KEY
from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.parity import run_logits
from mnist_cnn_train.export.thresholds import (
    NO_BOUND,
    holdout_split,
    preprocess_images,
    set_thresholds,
    threshold_split,
)

Sets = tuple[Dataset, Dataset]


def test_the_bounds_are_chosen_on_other_images_than_the_reader_is_judged_by() -> None:
    digits = Dataset(np.arange(100, dtype=np.uint8)[:, None, None], np.arange(100) % 10)
    chosen, judged = threshold_split(digits), holdout_split(digits)
    assert len(chosen) == 80
    assert len(judged) == 20
    assert not set(chosen.images.ravel()) & set(judged.images.ravel())


def bounds_of(model: onnx.ModelProto) -> list[float]:
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return [float(bound) for bound in properties[LOGIT_THRESHOLDS_KEY].split(",")]


def test_each_bound_has_the_share_asked_for_below_it(
    trained_model: Path, small_digits: Sets
) -> None:
    model = onnx.load(trained_model)
    before = {entry.key: entry.value for entry in model.metadata_props}
    seen = preprocess_images(small_digits[1])
    logits = run_logits(model, seen, as_written=True)
    largest, label = logits.max(axis=1), logits.argmax(axis=1)
    for share in (0.0, 0.1, 0.5):
        set_thresholds(model, seen, share)
        for one, bound in enumerate(bounds_of(model)):
            below = np.mean(largest[label == one] < bound)
            assert share - 0.06 <= below <= share
    after = {entry.key: entry.value for entry in model.metadata_props}
    assert after.keys() == before.keys()
    assert after["labels"] == before["labels"]


def test_a_label_that_was_never_read_has_no_bound(trained_model: Path, small_digits: Sets) -> None:
    model = onnx.load(trained_model)
    set_thresholds(model, preprocess_images(small_digits[1].take(np.arange(3))), 0.01)
    assert NO_BOUND in bounds_of(model)


def test_few_other_digits_are_flagged(recognizer: Recognizer, holdout_digits: Dataset) -> None:
    predictions = recognizer.predict_many(holdout_digits.images)
    assert np.mean([prediction.warning is not None for prediction in predictions]) < 0.025
