"""Accuracy with confidence intervals, log-likelihood and calibration."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from scipy.stats import binomtest

from mnist_cnn.core.mnist import LABELS

# Indices of MNIST's test images whose label fewer than three of five people chose.
# Source: C. G. Northcutt, A. Athalye, J. Mueller, "Pervasive label errors in test sets destabilize
# machine learning benchmarks", NeurIPS 2021; https://github.com/cleanlab/label-errors.
MNIST_LABEL_ERRORS = (
    *(947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937),
    *(6651, 6783, 8527, 9679, 9729),
)

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions whose confidence (largest probability) is in (low, high].

    `confidence` and `accuracy` are means over the bin's `images`; 0 for an empty bin.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of `n` predictions.

    Attributes:
        labels: int64 ``[n]``.
        predicted: int64 ``[n]``, the class with the largest logit.
        confidence: float64 ``[n]``, the probability of that class.
        negative_log_likelihood: mean over all images, in nats.
        calibration: bins of equal width, from low to high; see `calibration_bins`.
        names: class names, by label.
    """

    labels: Labels
    predicted: Labels
    confidence: Floats
    negative_log_likelihood: float
    calibration: list[CalibrationBin]
    names: tuple[str, ...]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether each prediction is correct, bool ``[n]``."""
        return np.equal(self.predicted, self.labels)

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions, from 0 to 1."""
        return float(self.correct.mean())

    def accuracy_without(self, images: Sequence[int]) -> float:
        """Return the accuracy without the predictions at some indices, rounded to six decimals."""
        return round(float(np.delete(self.correct, images).mean()), 6)

    def metrics(self) -> dict[str, Any]:
        """Return all metrics, rounded to six decimals, ready for JSON."""
        right, images = int(self.correct.sum()), len(self.labels)
        low, high = wilson_interval(right, images)
        figures = {
            "accuracy": self.accuracy,
            "errors": images - right,
            "images": images,
            "accuracy_95_low": low,
            "accuracy_95_high": high,
            "negative_log_likelihood": self.negative_log_likelihood,
            "calibration_error": expected_calibration_error(self.calibration),
            "accuracy_per_class": {
                self.names[label]: round(float(self.correct[self.labels == label].mean()), 6)
                for label in np.unique(self.labels)
            },
        }
        return {
            name: round(figure, 6) if isinstance(figure, float) else figure
            for name, figure in figures.items()
        }


def evaluate(
    logits: npt.NDArray[np.float32],
    labels: Labels,
    bins: int,
    names: tuple[str, ...] = LABELS,
) -> Evaluation:
    """Evaluate `logits`, ``[n, classes]``, against `labels`, ``[n]``, with `bins` calibration bins.

    `names` are the class names.
    """
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    predicted = logits.argmax(axis=1).astype(np.int64)
    confidence = np.exp(log_probabilities.max(axis=1))
    return Evaluation(
        labels=labels,
        predicted=predicted,
        confidence=confidence,
        negative_log_likelihood=float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        calibration=calibration_bins(confidence, predicted == labels, bins),
        names=names,
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, which is valid near 0 and 1 too."""
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def calibration_bins(
    confidence: Floats, correct: npt.NDArray[np.bool_], bins: int
) -> list[CalibrationBin]:
    """Group predictions by confidence, ``[n]`` in [0, 1], into `bins` bins of equal width."""
    edges = np.linspace(0, 1, bins + 1)
    members = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    result = []
    for index in range(bins):
        inside = members == index
        count = int(inside.sum())
        result.append(
            CalibrationBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                images=count,
                confidence=float(confidence[inside].mean()) if count else 0.0,
                accuracy=float(correct[inside].mean()) if count else 0.0,
            )
        )
    return result


def expected_calibration_error(bins: Iterable[CalibrationBin]) -> float:
    """Return the mean gap between confidence and accuracy, weighted by each bin's images.

    Source: C. Guo et al., "On calibration of modern neural networks", ICML 2017, eq. 3.
    """
    bins = list(bins)
    gaps = sum(bin.images * abs(bin.accuracy - bin.confidence) for bin in bins)
    return gaps / sum(bin.images for bin in bins)
