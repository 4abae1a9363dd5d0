"""Export the trained network to ONNX files, and check that onnxruntime agrees with torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto

from mnist_cnn.core.errors import CheckFailedError
from mnist_cnn.core.files import read_json, sha256, write_bytes, write_json
from mnist_cnn.onnxfile.checksum import add_checksum
from mnist_cnn_train.data.catalog import read_description
from mnist_cnn_train.data.dataset import Dataset, read_test_digits
from mnist_cnn_train.data.split import load_split
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.int8 import check_int8
from mnist_cnn_train.export.parity import check_parity
from mnist_cnn_train.export.thresholds import reader_inputs, set_thresholds, threshold_split
from mnist_cnn_train.model.networks import DigitNetwork, build
from mnist_cnn_train.model.weights import load_weights
from mnist_cnn_train.pipeline.params import Export, load_params
from mnist_cnn_train.pipeline.paths import (
    ACCURACY,
    ONNX_INT8_MODEL,
    ONNX_METRICS,
    ONNX_MODEL,
    RAW_DATA,
    WEIGHTS,
)
from mnist_cnn_train.pipeline.stage import exclusive_lock


@exclusive_lock("export")
def main() -> None:
    """Write the fp32 and int8 ONNX models and metrics/onnx.json."""
    params = load_params()
    test = read_test_digits(RAW_DATA)
    classes = len(test.names)
    network = build(params.model, classes)
    load_weights(network, WEIGHTS)
    torch.set_num_threads(1)  # the same rounding for any number of cores
    _, validation = load_split(RAW_DATA, params.data.split)
    data = read_description(RAW_DATA)
    # Export only evaluated models: this dependency makes DVC evaluate first.
    accuracy = read_json(ACCURACY)["accuracy"]
    description = describe(network, sha256(WEIGHTS), accuracy, data)
    model = export_onnx(network, description, classes)
    small = export_onnx(network, description, classes, int8=True)
    digits = reader_inputs(threshold_split(validation), data.dataset)
    for exported in (model, small):
        set_thresholds(exported, digits, params.export.max_false_alarm_rate)
    write_checked(model, small, network, test, params.export)


def write_checked(
    model: ModelProto, small: ModelProto, network: DigitNetwork, test: Dataset, export: Export
) -> None:
    """Check and write each model; a good fp32 model stays if the int8 check fails."""
    with removing_what_fails(ONNX_MODEL, ONNX_INT8_MODEL, ONNX_METRICS):
        parity = check_parity(model, network, test, export.tolerance)
    metrics: dict[str, Any] = {
        "fp32": {
            "bytes": write_model(model, ONNX_MODEL),
            "difference_at_most": parity.difference_at_most,
            "agreement": parity.agreement,
            "accuracy": parity.accuracy,
        },
    }
    write_json(ONNX_METRICS, metrics)
    with removing_what_fails(ONNX_INT8_MODEL):
        # On the test images, the only ones that no recipe trains on.
        accuracy = check_int8(small, model, test, export.max_int8_accuracy_drop)
    metrics["int8"] = {"bytes": write_model(small, ONNX_INT8_MODEL), "accuracy": accuracy}
    write_json(ONNX_METRICS, metrics)
    print(f"accuracy {parity.accuracy:.4f} by onnxruntime, {accuracy:.4f} in int8")


@contextmanager
def removing_what_fails(*outdated: Path) -> Iterator[None]:
    """If a check fails in the block, remove `outdated` files, which must not pass for new ones."""
    try:
        yield
    except CheckFailedError:
        for path in outdated:
            path.unlink(missing_ok=True)
        raise


def write_model(model: ModelProto, path: Path) -> int:
    """Write `model` with its embedded SHA-256; return the size of the file in bytes."""
    content = add_checksum(model)
    write_bytes(path, content)
    print(f"{path}: {len(content):,} bytes")
    return len(content)
