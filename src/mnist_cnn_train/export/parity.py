"""Check that onnxruntime and PyTorch agree on an exported model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto
from tqdm import tqdm

from mnist_cnn.core.errors import CheckFailedError
from mnist_cnn.onnxfile.contract import NOT_A_DIGIT, OUTPUTS
from mnist_cnn.onnxfile.session import open_content, read_logits, run_batches
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.model.networks import DigitNetwork, predict_logits

# One image, an odd size, a usual one, and the whole test set at once.
BATCH_SIZES = (1, 7, 256, 10_000)

# Batch size of `run_logits`. Logits' last bits depend on it, so changing it changes exported files.
BATCH_SIZE = 100


@dataclass(frozen=True)
class Parity:
    """Comparison of onnxruntime with torch on the same images.

    Attributes:
        largest_difference: maximum absolute difference of a logit over all batch sizes; its last
            digits depend on the processor.
        agreement: smallest fraction of images with the same prediction over all batch sizes.
        accuracy: smallest accuracy with onnxruntime over all batch sizes.
    """

    largest_difference: float
    agreement: float
    accuracy: float

    @property
    def difference_at_most(self) -> float:
        """`largest_difference` rounded up to a power of ten: the same on all processors."""
        return 10.0 ** math.ceil(math.log10(max(self.largest_difference, 1e-9)))


def run_logits(
    model: ModelProto, images: npt.NDArray[np.uint8], as_written: bool = False
) -> npt.NDArray[np.float32]:
    """Return logits ``[n, classes]`` of `images`, uint8 ``[n, 28, 28]``, from onnxruntime.

    Args:
        model: the model to run.
        images: n is at least 1.
        as_written: as for `open_model`; if False, optimize for this processor, as users do.
    """
    return read_logits(open_content(model.SerializeToString(), as_written), images, BATCH_SIZE)


def torch_outputs(network: DigitNetwork, digits: Dataset) -> list[npt.NDArray[np.float32]]:
    """Return what `network` says of n `digits`: logits and probabilities, ``[n, classes]``.

    If it has one logit more than there are classes, also its probability, ``[n]``.
    """
    classes = len(digits.names)
    scores = predict_logits(network, torch.from_numpy(digits.images))
    logits = scores[:, :classes]
    found = [logits, logits.softmax(dim=1), *scores.softmax(dim=1)[:, classes:].unbind(dim=1)]
    return [output.numpy() for output in found]


def check_parity(
    model: ModelProto,
    network: DigitNetwork,
    digits: Dataset,
    tolerance: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Parity:
    """Run `model` on all of `digits` with each of `batch_sizes`, and compare it with `network`.

    Raises:
        CheckFailedError: if a logit or probability differs by more than `tolerance`, or an image
            gets another prediction.
    """
    expected = torch_outputs(network, digits)
    expected_class = expected[0].argmax(axis=1)
    session = open_content(model.SerializeToString())
    names = [*OUTPUTS, NOT_A_DIGIT][: len(expected)]
    differences, agreements, accuracies = [], [], []
    for size in tqdm(batch_sizes, unit="batch size", desc="parity", disable=None):
        found = run_batches(session, names, digits.images, size)
        gaps = [float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)]
        # Comparisons with NaN are false, so test for the valid range.
        if not max(gaps) <= tolerance:
            raise CheckFailedError(
                f"in batches of {size}, onnxruntime differs from torch by {max(gaps):.2g}, "
                f"more than export.tolerance {tolerance:g}; no model was written"
            )
        found_class = found[0].argmax(axis=1)
        differences.append(gaps[0])
        agreements.append(float((found_class == expected_class).mean()))
        accuracies.append(float((found_class == digits.labels).mean()))
        if agreements[-1] < 1:
            index = int((found_class != expected_class).argmax())
            raise CheckFailedError(
                f"in batches of {size}, onnxruntime reads test image {index} as "
                f"{found_class[index]}, torch as {expected_class[index]}; no model was written"
            )
    return Parity(max(differences), min(agreements), min(accuracies))
