"""Whether onnxruntime and PyTorch agree on an exported model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnx import ModelProto
from torch import nn
from tqdm import tqdm

from mnist_cnn.core.errors import CheckFailedError
from mnist_cnn.onnxfile.contract import INPUT, OUTPUTS
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.model.networks import predict_logits

# One image, a batch that divides nothing, a usual one, and the whole test set at once.
BATCH_SIZES = (1, 7, 256, 10_000)


@dataclass(frozen=True)
class Parity:
    """How onnxruntime compares with torch on the same images.

    Attributes:
        largest_difference: between two logits of the same image and class, over all batch sizes;
            its last digits depend on the processor.
        agreement: the smallest share of images, over all batch sizes, with the same class.
        accuracy: by onnxruntime, the smallest over all batch sizes.
    """

    largest_difference: float
    agreement: float
    accuracy: float

    @property
    def difference_at_most(self) -> float:
        """The next power of ten above `largest_difference`, which is alike on all processors."""
        return 10.0 ** math.ceil(math.log10(max(self.largest_difference, 1e-9)))


def run_logits(
    model: ModelProto,
    images: npt.NDArray[np.uint8],
    as_written: bool = False,
    batch_size: int = 100,
) -> npt.NDArray[np.float32]:
    """Logits, ``[n, classes]``, that onnxruntime gives of `images`, uint8 ``[n, 28, 28]``."""
    session = open_session(model, as_written)
    batches = [
        session.run(OUTPUTS[:1], {INPUT: images[start : start + batch_size]})[0]
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(batches)


def open_session(model: ModelProto, as_written: bool = False) -> onnxruntime.InferenceSession:
    """Open `model` for the CPU, on one thread.

    Args:
        model: what to open.
        as_written: run one operator after the other, as the file has them, which gives the same
            bits on every processor; else as its users do, in what is quickest on this one.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one rounding, however many cores there are
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def check_parity(
    model: ModelProto,
    network: nn.Module,
    digits: Dataset,
    tolerance: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Parity:
    """Run `model` on all of `digits` in each of `batch_sizes`, and compare it with `network`.

    Raises:
        CheckFailedError: a logit or probability differs by more than `tolerance`, or an image
            gets another class.
    """
    expected_logits = predict_logits(network, torch.from_numpy(digits.images))
    expected = [expected_logits.numpy(), expected_logits.softmax(dim=1).numpy()]
    expected_class = expected[0].argmax(axis=1)
    session = open_session(model)
    differences, agreements, accuracies = [], [], []
    with tqdm(
        total=len(batch_sizes) * len(digits), unit="image", desc="parity", disable=None
    ) as progress:
        for size in batch_sizes:
            batches = []
            for start in range(0, len(digits), size):
                batch = digits.images[start : start + size]
                batches.append(session.run(OUTPUTS, {INPUT: batch}))
                progress.update(len(batch))
            found = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
            gaps = [float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)]
            # A NaN compares false with everything, so the test says what is fine.
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
