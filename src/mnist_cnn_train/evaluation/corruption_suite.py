"""Robustness to image corruptions: accuracy, calibration and warnings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax
from tqdm import tqdm

from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.held_out import HELD_OUT
from mnist_cnn_train.evaluation.metrics import (
    calibration_bins,
    expected_calibration_error,
)
from mnist_cnn_train.model.networks import to_input
from mnist_cnn_train.transforms.corruptions import TRAINING, Corruption, corrupt, to_pixels

SEVERITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
GROUPS: Mapping[str, Mapping[str, Corruption]] = {"training": TRAINING, "held_out": HELD_OUT}
BINS = 15
Pixels = npt.NDArray[np.uint8]

# From uint8 [n, 28, 28] to logits, [n, 10], and to bool [n]: whether a warning goes with each.
Read = Callable[[Pixels], tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]]


def corrupted(images: Pixels, corruption: Corruption, severity: float) -> Pixels:
    """Corrupt `images`, uint8 ``[n, 28, 28]``, deterministically; same shape and dtype."""
    severities = torch.full((len(images),), severity)
    key = (round(100 * severity),)
    damaged = corrupt(to_input(torch.from_numpy(images)), corruption, severities, key)
    pixels: Pixels = to_pixels(damaged).numpy()
    return pixels


def examples(digits: Dataset) -> dict[str, dict[str, list[Pixels]]]:
    """Return one image per corruption and severity, with a different digit for each corruption."""
    return {
        group: {
            name: [
                corrupted(digits.images[place : place + 1], corruption, severity)[0]
                for severity in SEVERITIES
            ]
            for place, (name, corruption) in enumerate(corruptions.items())
        }
        for group, corruptions in GROUPS.items()
    }


def evaluate_corruptions(read: Read, digits: Dataset) -> dict[str, Any]:
    """Evaluate a model on `digits`, clean and under each corruption and severity.

    Args:
        read: the model.
        digits: clean images with labels.

    Returns:
        Fractions from 0 to 1, ready for JSON. For each group of corruptions: accuracy by
        corruption and severity, mean error, expected calibration error over all its images, risk
        (error rate) among the most confident 10, 20, … 100 % of them, and, if the model warns, the
        fraction with a warning by severity.
    """
    clean = _Predictions.of(*read(digits.images), digits.labels)
    report: dict[str, Any] = {
        "images": len(digits),
        "clean_accuracy": round(float(clean.right.mean()), 6),
    }
    cells = sum(map(len, GROUPS.values())) * len(SEVERITIES)
    with tqdm(total=cells, unit="corruption", disable=None, leave=False) as progress:
        for group, corruptions in GROUPS.items():
            found: dict[str, list[_Predictions]] = {}
            for name, corruption in corruptions.items():
                found[name] = []
                for severity in SEVERITIES:
                    outputs = read(corrupted(digits.images, corruption, severity))
                    found[name].append(_Predictions.of(*outputs, digits.labels))
                    progress.update()
            report[group] = _summary(found)
    return report


def headline(report: Mapping[str, Any]) -> dict[str, float]:
    """Return, as a flat dict, the metrics of `evaluate_corruptions` that compare recipes."""
    return {
        "corruption_error": report["training"]["mean_error"],
        "held_out_corruption_error": report["held_out"]["mean_error"],
        "held_out_calibration_error": report["held_out"]["calibration_error"],
    }


def format_summary(report: Mapping[str, Any]) -> str:
    """Summarize the result of `evaluate_corruptions` in one line."""
    trained, held_out = report["training"], report["held_out"]
    return (
        f"{report['images']:,} images: accuracy {report['clean_accuracy']:.2%}; error "
        f"{trained['mean_error']:.2%} under corruptions trained on and "
        f"{held_out['mean_error']:.2%} under held-out ones, with a calibration error of "
        f"{held_out['calibration_error']:.4f}"
    )


@dataclass(frozen=True)
class _Predictions:
    """Correctness, confidence and warning of the prediction for each image."""

    right: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float64]
    warned: npt.NDArray[np.bool_] | None

    @classmethod
    def of(
        cls,
        logits: npt.NDArray[np.float32],
        warned: npt.NDArray[np.bool_] | None,
        labels: npt.NDArray[np.int64],
    ) -> Self:
        return cls(
            right=logits.argmax(axis=1) == labels,
            confidence=np.exp(log_softmax(logits.astype(np.float64), axis=1).max(axis=1)),
            warned=warned,
        )


def _summary(found: Mapping[str, list[_Predictions]]) -> dict[str, Any]:
    every = [predictions for row in found.values() for predictions in row]
    right = np.concatenate([predictions.right for predictions in every])
    confidence = np.concatenate([predictions.confidence for predictions in every])
    summary: dict[str, Any] = {
        "mean_error": round(1 - float(right.mean()), 6),
        "calibration_error": round(
            expected_calibration_error(calibration_bins(confidence, right, BINS)), 6
        ),
        "accuracy": {
            name: [round(float(predictions.right.mean()), 4) for predictions in row]
            for name, row in found.items()
        },
        "risk_by_coverage": _risks(confidence, right),
    }
    if every[0].warned is not None:
        summary["warned"] = [
            round(float(np.mean([row[place].warned for row in found.values()])), 4)
            for place in range(len(SEVERITIES))
        ]
    return summary


def _risks(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the error rate among the most confident 10, 20, … 100 % of the predictions."""
    surest = right[np.argsort(-confidence, kind="stable")]
    errors = np.cumsum(~surest) / np.arange(1, len(surest) + 1)
    return {
        f"{tenths}0%": round(float(errors[tenths * len(surest) // 10 - 1]), 6)
        for tenths in range(1, 11)
    }
