"""When a picture is not taken for a digit: its logit is lower than nearly all of its label's.

Source of the score: D. Hendrycks et al., "Scaling out-of-distribution detection for real-world
settings", ICML 2022. On the validation images it told letters and shapes from digits better than
the largest probability, the margin between two logits, or their log-sum-exp.
"""

import math

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from mnist_cnn.imaging.normalize import to_mnist
from mnist_cnn.onnxfile.contract import LEAST_LOGITS
from mnist_cnn_train.data.dataset import Digits
from mnist_cnn_train.export.parity import run_logits

NO_BOUND = -1e6  # of a label that no digit was read as: nothing is known, so nothing is flagged


def to_choose_from(validation: Digits) -> Digits:
    """Four of five validation images: the bound is chosen on these."""
    return validation.take(np.flatnonzero(np.arange(len(validation)) % 5))


def to_judge_by(validation: Digits) -> Digits:
    """The others: the reader of pictures is judged by these."""
    return validation.take(np.arange(0, len(validation), 5))


def read_by(digits: Digits, dataset: str) -> npt.NDArray[np.uint8]:
    """The images ``[n, 28, 28]`` by which the recogniser will know `digits` of `dataset`.

    A folder's are what it made of people's pictures, and to make that once more would blur them.
    """
    return digits.images if dataset == "folder" else seen_as_pictures(digits)


def seen_as_pictures(digits: Digits) -> npt.NDArray[np.uint8]:
    """The images ``[n, 28, 28]`` that the recogniser makes of `digits`, less those without ink."""
    seen = [image for image in map(to_mnist, digits.images) if image is not None]
    return np.stack(seen) if seen else digits.images[:0]


def note_least_logits(model: ModelProto, digits: npt.NDArray[np.uint8], flagged: float) -> None:
    """Find, for each label, the bound that at most the share `flagged` of its `digits` is below.

    Its digits are those of ``[n, 28, 28]`` that are read as it. The bounds become a property of
    `model`, `LEAST_LOGITS`.
    """
    logits = run_logits(model, digits, as_written=True)
    largest, label = logits.max(axis=1), logits.argmax(axis=1)
    bounds = [_bound(largest[label == one], flagged) for one in range(logits.shape[1])]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    properties[LEAST_LOGITS] = ",".join(f"{bound:.2f}" for bound in bounds)
    onnx.helper.set_model_props(model, properties)


def _bound(logits: npt.NDArray[np.float32], flagged: float) -> float:
    if not logits.size:
        return NO_BOUND
    exact = float(np.quantile(logits, flagged, method="lower"))
    return math.floor(100 * exact) / 100  # rounded down, so that no more are below
