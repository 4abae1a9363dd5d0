"""Evaluate the trained network on the test images; fail if accuracy is below the minimum."""

import numpy as np
import numpy.typing as npt
import torch

from mnist_cnn.core.errors import CheckFailedError
from mnist_cnn.core.files import write_json
from mnist_cnn_train.data.catalog import MNIST, read_description
from mnist_cnn_train.data.dataset import read_test_digits
from mnist_cnn_train.evaluation.corruption_suite import evaluate_corruptions, headline
from mnist_cnn_train.evaluation.figures import plot_curves, plot_misclassified, plot_reliability
from mnist_cnn_train.evaluation.metrics import MNIST_LABEL_ERRORS, evaluate
from mnist_cnn_train.evaluation.reader_suite import evaluate_reader
from mnist_cnn_train.model.networks import build, predict_logits
from mnist_cnn_train.model.weights import load_weights
from mnist_cnn_train.pipeline.params import load_params
from mnist_cnn_train.pipeline.paths import (
    ACCURACY,
    CONFUSION,
    CURVES,
    FONTS,
    MISCLASSIFIED,
    RAW_DATA,
    RELIABILITY,
    TRAINING_LOG,
    WEIGHTS,
)
from mnist_cnn_train.pipeline.stage import exclusive_lock
from mnist_cnn_train.pipeline.tables import read_columns, write_csv


@exclusive_lock("evaluate")
def main() -> None:
    """Write metrics/accuracy.json, the confusion data and the figures."""
    params = load_params()
    digits = read_test_digits(RAW_DATA)
    history = read_columns(TRAINING_LOG)
    network = build(params.model, len(digits.names))
    load_weights(network, WEIGHTS)
    torch.set_num_threads(1)  # the same rounding for any number of cores

    classes = len(digits.names)

    def read(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = predict_logits(network, torch.from_numpy(images)).numpy()
        return logits

    def read_digits(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return read(images)[:, :classes]

    evaluation = evaluate(
        read_digits(digits.images), digits.labels, params.evaluate.calibration_bins, digits.names
    )

    metrics = evaluation.metrics()
    if read_description(RAW_DATA) == MNIST:
        metrics["accuracy_without_label_errors"] = evaluation.accuracy_without(MNIST_LABEL_ERRORS)
    if params.evaluate.corruption_test_images:
        damaged = digits.take(np.arange(min(params.evaluate.corruption_test_images, len(digits))))
        report = evaluate_corruptions(lambda images: (read_digits(images), None), damaged)
        metrics |= headline(report)
    if params.evaluate.reader_suite:
        few = digits.take(np.arange(min(2_000, len(digits))))
        metrics |= evaluate_reader(read, few, FONTS)
    write_json(ACCURACY, metrics)
    write_csv(
        CONFUSION,
        ["actual", "predicted"],
        (
            (digits.names[label], digits.names[predicted])
            for label, predicted in zip(evaluation.labels, evaluation.predicted, strict=True)
        ),
    )
    plot_reliability(evaluation, RELIABILITY)
    plot_misclassified(evaluation, digits, MISCLASSIFIED)
    plot_curves(history, CURVES)

    if evaluation.accuracy < params.evaluate.min_accuracy:
        raise CheckFailedError(
            f"accuracy {evaluation.accuracy:.4f} is below evaluate.min_accuracy "
            f"{params.evaluate.min_accuracy}, so nothing is exported; see {ACCURACY}, then "
            "improve the recipe or lower the gate in params.yaml"
        )
    print(f"accuracy {evaluation.accuracy:.4f} on {len(digits):,} test images")
