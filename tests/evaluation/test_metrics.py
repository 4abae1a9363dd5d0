import json
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error

from mnist_cnn_train.evaluation.metrics import (
    calibration_bins,
    evaluate,
    expected_calibration_error,
    wilson_interval,
)


@pytest.fixture
def logits(rng: np.random.Generator) -> np.ndarray:
    return (3 * rng.standard_normal((1000, 10))).astype(np.float32)


@pytest.fixture
def labels(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    guesses = rng.integers(0, 10, 1000)
    return np.where(rng.random(1000) < 0.6, logits.argmax(axis=1), guesses)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_textbooks(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("trials", [1, 20, 2_000, 10_000])
def test_the_interval_is_wilsons_formula_to_six_decimals(trials: int) -> None:
    """E. B. Wilson, J. Am. Stat. Assoc. 22 (1927)."""
    z = NormalDist().inv_cdf(0.975)
    for successes in {0, trials // 3, trials - 1, trials}:
        rate = successes / trials
        center = rate + z**2 / (2 * trials)
        margin = z * (rate * (1 - rate) / trials + z**2 / (4 * trials**2)) ** 0.5
        ends = [(center + sign * margin) / (1 + z**2 / trials) for sign in (-1, 1)]
        found = wilson_interval(successes, trials)
        assert [round(end, 6) for end in found] == [round(end, 6) for end in ends]


def test_the_interval_of_all_right_ends_at_one() -> None:
    low, high = wilson_interval(10_000, 10_000)
    assert 0.9996 < low < high == 1


@pytest.mark.parametrize("bins", [1, 10, 15, 100])
def test_calibration_error_is_torchmetrics(
    logits: np.ndarray, labels: np.ndarray, bins: int
) -> None:
    found = evaluate(logits, labels, bins)
    expected = multiclass_calibration_error(
        torch.from_numpy(logits).double().softmax(1),
        torch.from_numpy(labels),
        num_classes=10,
        n_bins=bins,
    )
    error = expected_calibration_error(found.calibration)
    assert error == pytest.approx(expected.item(), abs=1e-6)


def test_calibration_error_of_a_case_worked_by_hand() -> None:
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
def test_probabilities_are_torchs_even_where_they_would_overflow(
    scale: int, logits: np.ndarray, labels: np.ndarray
) -> None:
    found = evaluate(logits * scale, labels, bins=15)
    scores, truth = torch.from_numpy(logits * scale).double(), torch.from_numpy(labels)
    np.testing.assert_allclose(found.confidence, scores.softmax(1).amax(1), rtol=1e-12)
    expected = functional.cross_entropy(scores, truth).item()
    assert found.negative_log_likelihood == pytest.approx(expected, rel=1e-12)


def test_every_figure_is_what_torch_gives(logits: np.ndarray, labels: np.ndarray) -> None:
    metrics = evaluate(logits, labels, bins=15).metrics()
    scores, truth = torch.from_numpy(logits), torch.from_numpy(labels)
    right = scores.argmax(1) == truth
    assert metrics["accuracy"] == pytest.approx(right.double().mean().item(), abs=1e-6)
    assert metrics["errors"] == int((~right).sum())
    assert metrics["images"] == 1000
    assert metrics["accuracy_95_low"] < metrics["accuracy"] < metrics["accuracy_95_high"]
    expected = functional.cross_entropy(scores.double(), truth).item()
    assert metrics["negative_log_likelihood"] == pytest.approx(expected, abs=1e-6)
    for label in range(10):
        share = right[truth == label].double().mean().item()
        assert metrics["accuracy_per_class"][str(label)] == pytest.approx(share, abs=1e-6)
    assert json.loads(json.dumps(metrics)) == metrics
