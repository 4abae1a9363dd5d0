from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.picture_suite import (
    NON_DIGIT_KINDS,
    PICTURE_KINDS,
    evaluate_pictures,
)


@pytest.mark.parametrize("draw", PICTURE_KINDS.values(), ids=PICTURE_KINDS)
def test_a_disguise_is_drawn_alike_from_one_seed(draw: Any, holdout_digits: Dataset) -> None:
    first, again = (draw(holdout_digits.images[0], np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("name", NON_DIGIT_KINDS)
def test_pictures_of_no_digit_differ_by_seed_alone(name: str) -> None:
    first, again, other = (
        NON_DIGIT_KINDS[name](np.random.default_rng(seed))
        .convert("L")
        .resize((50, 50), Image.Resampling.BOX)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_digits_in_disguise_are_read(recognizer: Recognizer, holdout_digits: Dataset) -> None:
    judged = evaluate_pictures(recognizer, holdout_digits.take(np.arange(0, 1_000, 3)))
    assert judged.keys() == PICTURE_KINDS.keys()
    for name, found in judged.items():
        assert found["agreement"] >= 0.98, name
    assert judged["as it is"]["flagged"] < 0.03


@pytest.mark.slow
def test_classes_of_any_names_are_judged_by_them(
    recognizer: Recognizer, holdout_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"class {label}" for label in recognizer.labels)
    monkeypatch.setattr(recognizer, "labels", names)
    few = holdout_digits.take(np.arange(20))
    judged = evaluate_pictures(recognizer, Dataset(few.images, few.labels, names))
    assert judged["as it is"]["accuracy"] > 0.9
