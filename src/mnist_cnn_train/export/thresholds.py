"""Logit thresholds: a prediction is flagged if its logit is below its class's threshold.

Source of the score, the largest logit: D. Hendrycks et al., "Scaling out-of-distribution detection
for real-world settings", ICML 2022. On the validation images, it separated letters and shapes from
digits better than the largest probability, the margin between two logits, or their log-sum-exp.
"""

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from mnist_cnn.imaging.normalize import to_mnist
from mnist_cnn.onnxfile.contract import (
    LOGIT_THRESHOLDS_KEY,
    NOT_A_DIGIT,
    NOT_A_DIGIT_THRESHOLD_KEY,
)
from mnist_cnn.onnxfile.session import open_content, run_batches
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.parity import BATCH_SIZE, run_logits

NO_BOUND = -1e6  # threshold of a class that no image was classified as: flag nothing


def threshold_split(validation: Dataset) -> Dataset:
    """Return four of every five validation images, for choosing the thresholds."""
    return validation.take(np.flatnonzero(np.arange(len(validation)) % 5))


def holdout_split(validation: Dataset) -> Dataset:
    """Return the other fifth of the validation images, for evaluating the picture reader."""
    return validation.take(np.arange(0, len(validation), 5))


def reader_inputs(digits: Dataset, dataset: str) -> npt.NDArray[np.uint8]:
    """Return the images ``[n, 28, 28]`` of `digits` as the recognizer would see them.

    Those of a folder are preprocessed already; to do that again would blur them.
    """
    return digits.images if dataset == "folder" else preprocess_images(digits)


def preprocess_images(digits: Dataset) -> npt.NDArray[np.uint8]:
    """Preprocess `digits` as the recognizer does, to ``[n, 28, 28]``; drop images without ink."""
    seen = [image for image in map(to_mnist, digits.images) if image is not None]
    return np.stack(seen) if seen else digits.images[:0]


def set_thresholds(
    model: ModelProto, digits: npt.NDArray[np.uint8], max_false_alarm_rate: float
) -> None:
    """Set when the reader warns, so that at most `max_false_alarm_rate` of `digits` are flagged.

    The threshold is stored as a property of `model`: `NOT_A_DIGIT_THRESHOLD_KEY` if it has the
    output `NOT_A_DIGIT`; otherwise `LOGIT_THRESHOLDS_KEY`, one per class, each for the images of
    `digits`, uint8 ``[n, 28, 28]``, that `model` classifies as it.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if any(output.name == NOT_A_DIGIT for output in model.graph.output):
        session = open_content(model.SerializeToString(), as_written=True)
        [found] = run_batches(session, [NOT_A_DIGIT], digits, BATCH_SIZE)
        exact = float(np.quantile(found, 1 - max_false_alarm_rate, method="higher"))
        properties[NOT_A_DIGIT_THRESHOLD_KEY] = f"{math.ceil(1e6 * exact) / 1e6:.6f}"
    else:
        logits = run_logits(model, digits, as_written=True)
        largest, label = logits.max(axis=1), logits.argmax(axis=1)
        groups = [largest[label == one] for one in range(logits.shape[1])]
        bounds = [_bound(of_label, max_false_alarm_rate) for of_label in groups]
        properties[LOGIT_THRESHOLDS_KEY] = ",".join(f"{bound:.2f}" for bound in bounds)
    onnx.helper.set_model_props(model, properties)


def _bound(logits: npt.NDArray[np.float32], max_false_alarm_rate: float) -> float:
    if not logits.size:
        return NO_BOUND
    exact = float(np.quantile(logits, max_false_alarm_rate, method="lower"))
    return math.floor(100 * exact) / 100  # rounded down, so that no more images are below
