import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

from mnist_cnn_train.evaluation.metrics import (
    MNIST_LABEL_ERRORS,
    calibration_bins,
    evaluate,
    expected_calibration_error,
    wilson_interval,
)

Array = np.ndarray


@pytest.fixture
def logits(rng: np.random.Generator) -> np.ndarray:
    return (3 * rng.standard_normal((1000, 10))).astype(np.float32)


@pytest.fixture
def labels(rng: np.random.Generator, logits: Array) -> np.ndarray:
    guesses = rng.integers(0, 10, 1000)
    return np.where(rng.random(1000) < 0.6, logits.argmax(axis=1), guesses)


@pytest.mark.parametrize("trials", [1, 20, 2_000, 10_000])
def test_the_interval_is_scipys_to_six_decimals(trials: int) -> None:
    for successes in (0, trials // 3, trials - 1, trials):
        expected = binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx(expected, abs=5e-7)
    assert wilson_interval(trials, trials)[1] == 1


def test_images_with_wrong_labels_can_be_left_out(logits: Array, labels: Array) -> None:
    judged = evaluate(logits, labels, bins=10)
    wrong = np.flatnonzero(~judged.correct).tolist()
    kept = len(labels) - 2
    assert judged.accuracy_without(wrong[:2]) == round(judged.correct.sum() / kept, 6)
    assert judged.accuracy_without(wrong) == 1
    assert len(set(MNIST_LABEL_ERRORS)) == 15


@pytest.mark.parametrize("bins", [1, 10, 15, 100])
def test_calibration_is_torchmetrics(logits: Array, labels: Array, bins: int) -> None:
    found = evaluate(logits, labels, bins)
    probabilities = torch.from_numpy(logits).double().softmax(1)
    expected = multiclass_calibration_error(probabilities, torch.from_numpy(labels), 10, bins)
    error = expected_calibration_error(found.calibration)
    assert error == pytest.approx(expected.item(), abs=1e-6)


def test_calibration_of_a_case_worked_by_hand() -> None:
    confidence = np.array([0.2, 0.4, 0.5, 0.9, 1.0])
    correct = np.array([False, True, True, True, True])
    low, high = calibration_bins(confidence, correct, 2)  # (0, 0.5] and (0.5, 1]
    assert (low.images, high.images) == (3, 2)
    assert (low.confidence, low.accuracy) == pytest.approx((1.1 / 3, 2 / 3))
    assert (high.confidence, high.accuracy) == pytest.approx((0.95, 1))
    assert expected_calibration_error([low, high]) == pytest.approx(0.6 * 0.3 + 0.4 * 0.05)


def test_the_extremes_of_confidence_have_a_bin() -> None:
    bins = calibration_bins(np.array([0.0, 1.0]), np.array([True, True]), 4)
    assert [bin.images for bin in bins] == [1, 0, 0, 1]


@pytest.mark.parametrize("scale", [1, 1000])
def test_figures_are_torchs_and_do_not_overflow(scale: int, logits: Array, labels: Array) -> None:
    found = evaluate(logits * scale, labels, bins=15)
    scores, truth = torch.from_numpy(logits * scale).double(), torch.from_numpy(labels)
    loss = functional.cross_entropy(scores, truth).item()
    np.testing.assert_allclose(found.confidence, scores.softmax(1).amax(1), rtol=1e-12)
    assert found.negative_log_likelihood == pytest.approx(loss, rel=1e-12)
    metrics, right = found.metrics(), scores.argmax(1) == truth
    assert metrics["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-6)
    assert (metrics["errors"], metrics["images"]) == ((~right).sum(), 1000)
    assert metrics["accuracy_95_low"] < metrics["accuracy"] < metrics["accuracy_95_high"]
    assert metrics["negative_log_likelihood"] == pytest.approx(loss, abs=1e-6)
    assert metrics["accuracy_per_class"] == {
        str(label): pytest.approx(right[truth == label].double().mean().item(), abs=1e-6)
        for label in range(10)
    }
    assert json.loads(json.dumps(metrics)) == metrics
