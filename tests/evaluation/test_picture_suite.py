import json

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Digits
from mnist_cnn_train.evaluation.picture_suite import (
    DISGUISES,
    NO_DIGITS,
    judge_disguises,
    judge_no_digits,
)


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_is_drawn_alike_from_one_seed(name: str, judged_digits: Digits) -> None:
    drawn = [
        np.asarray(DISGUISES[name](judged_digits.images[0], np.random.default_rng(seed)))
        for seed in (1, 1)
    ]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("name", NO_DIGITS)
def test_pictures_of_no_digit_differ_by_seed_alone(name: str) -> None:
    first, again, other = (
        NO_DIGITS[name](np.random.default_rng(seed))
        .convert("L")
        .resize((50, 50), Image.Resampling.BOX)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.slow
def test_digits_in_disguise_are_read_as_without_it(
    recognizer: Recognizer, judged_digits: Digits
) -> None:
    judged = judge_disguises(recognizer, judged_digits.take(np.arange(0, 1_000, 3)))
    assert judged.keys() == DISGUISES.keys()
    for name, found in judged.items():
        assert found["agreement"] >= 0.98, name
    assert judged["as it is"]["flagged"] < 0.03


@pytest.mark.slow
def test_classes_of_any_names_are_judged_by_them(
    recognizer: Recognizer, judged_digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"class {label}" for label in recognizer.labels)
    monkeypatch.setattr(recognizer, "labels", names)
    few = judged_digits.take(np.arange(20))
    judged = judge_disguises(recognizer, Digits(few.images, few.labels, names))
    assert judged["as it is"]["accuracy"] > 0.9


def test_blank_paper_is_always_caught(recognizer: Recognizer) -> None:
    caught = judge_no_digits(recognizer, 20)
    assert caught.keys() == NO_DIGITS.keys()
    assert caught["blank paper"] == 1


def test_the_documented_tables_are_what_was_measured() -> None:
    measured = json.loads((REPOSITORY / "metrics/pictures.json").read_text())
    text = (REPOSITORY / "docs/pictures.md").read_text()
    for name, found in measured["disguises"].items():
        shares = " | ".join(
            f"{100 * found[share]:.1f} %" for share in ("agreement", "accuracy", "flagged")
        )
        assert f"| {name} | {shares} |" in text
    for name, share in measured["caught"].items():
        assert f"| {name} | {100 * share:.1f} % |" in text
