"""A digit reader in an ONNX file: what it says of images, and when to doubt it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.onnxfile.contract import (
    INPUT,
    LOGIT_THRESHOLDS_KEY,
    NOT_A_DIGIT,
    NOT_A_DIGIT_THRESHOLD_KEY,
    OUTPUTS,
)
from mnist_cnn.onnxfile.session import open_model, run_batches


@dataclass(frozen=True)
class Outputs:
    """What a model says of n images.

    Attributes:
        logits: float32 ``[n, labels]``.
        probabilities: float32 ``[n, labels]``.
        not_a_digit: float32 ``[n]``, the probability that an image holds no digit; None if the
            file does not have it.
        is_doubtful: bool ``[n]``, whether an image may be of no label; None where the file has
            no threshold.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    not_a_digit: npt.NDArray[np.float32] | None
    is_doubtful: npt.NDArray[np.bool_] | None


class DigitModel:
    """Runs an ONNX file that keeps the contract of `mnist_cnn.onnxfile.contract`.

    Attributes:
        properties: what the file's metadata says.
    """

    def __init__(self, path: Path, as_written: bool = False) -> None:
        """Open the file at `path`, as `open_model` does, and check its inputs and outputs.

        Raises:
            MnistCnnError: what `open_model` raises, or it takes or gives something else.
        """
        self._session = open_model(path, as_written)
        inputs = [(value.name, value.type) for value in self._session.get_inputs()]
        outputs = {value.name for value in self._session.get_outputs()}
        if inputs != [(INPUT, "tensor(uint8)")] or not outputs >= set(OUTPUTS):
            raise MnistCnnError(
                f"{path} is not a model of mnist-cnn's pipeline, nor one that takes uint8 images "
                f"as {INPUT!r} and gives {' and '.join(OUTPUTS)}"
            )
        self.properties: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._rejects = NOT_A_DIGIT in outputs
        key = NOT_A_DIGIT_THRESHOLD_KEY if self._rejects else LOGIT_THRESHOLDS_KEY
        noted = self.properties.get(key)
        self._thresholds = np.array(noted.split(","), np.float32) if noted else None

    def are_surely_digits(self, outputs: Outputs, factor: float) -> npt.NDArray[np.bool_]:
        """Return which images have a `not_a_digit` below `factor` times the threshold, bool [n]."""
        if outputs.not_a_digit is None or self._thresholds is None:
            return np.zeros(len(outputs.logits), np.bool_)
        return outputs.not_a_digit < factor * self._thresholds

    @property
    def has_threshold(self) -> bool:
        """Whether the file says when an image may be of no label."""
        return self._thresholds is not None

    def run(self, images: npt.NDArray[np.uint8]) -> Outputs:
        """What the model says of `images`, uint8 ``[n, 28, 28]``, n at least 1."""
        names = [*OUTPUTS, NOT_A_DIGIT] if self._rejects else OUTPUTS
        logits, probabilities, *rest = run_batches(self._session, names, images)
        rejected = rest[0] if rest else None
        doubtful = None
        if self._thresholds is not None and rejected is not None:
            doubtful = rejected > self._thresholds
        elif self._thresholds is not None:
            doubtful = logits.max(axis=1) < self._thresholds[logits.argmax(axis=1)]
        return Outputs(logits, probabilities, rejected, doubtful)
