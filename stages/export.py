"""Turn the trained network into ONNX files, once onnxruntime agrees with torch."""

import numpy as np
import torch

from mnist_cnn.artifacts import sha256, write_bytes, write_json
from mnist_cnn.digits import (
    read_description,
    read_test_digits,
    read_training_digits,
    stratified_split,
)
from mnist_cnn.errors import CheckFailedError
from mnist_cnn.model import build
from mnist_cnn.onnx_export import check_parity, describe, export_onnx, measure_accuracy
from mnist_cnn.params import load_params
from mnist_cnn.paths import ONNX_INT8_MODEL, ONNX_METRICS, ONNX_MODEL, RAW_DATA, WEIGHTS
from mnist_cnn.quantisation import check_loss, quantise
from mnist_cnn.rejection import note_least_logits, read_by, to_choose_from
from mnist_cnn.seal import seal
from mnist_cnn.stage import running
from mnist_cnn.weights import load_weights


def main() -> None:
    """Write the ONNX models, in fp32 and int8, and metrics/onnx.json."""
    params = load_params()
    split = params.data.split
    test = read_test_digits(RAW_DATA)
    network = build(params.model, len(test.names))
    load_weights(network, WEIGHTS)
    torch.set_num_threads(1)  # one rounding, however many cores there are
    training, validation = stratified_split(
        read_training_digits(RAW_DATA), split.train_images, split.validation_images, split.seed
    )
    calibration = training.take(np.arange(params.export.calibration_images))

    data = read_description(RAW_DATA)
    description = describe(network, sha256(WEIGHTS), data)
    model = export_onnx(network, params.export.opset, description)
    small = quantise(model, calibration, description)
    try:
        parity = check_parity(model, network, test, params.export.tolerance)
        loss = check_loss(small, model, validation, params.export.int8_loss)
    except CheckFailedError:
        for outdated in (ONNX_MODEL, ONNX_INT8_MODEL, ONNX_METRICS):
            outdated.unlink(missing_ok=True)  # it must not stand in for the one that failed
        raise
    digits = read_by(to_choose_from(validation), data.dataset)
    for exported in (model, small):
        note_least_logits(exported, digits, params.export.flagged)

    content, small_content = seal(model), seal(small)
    write_bytes(ONNX_MODEL, content)
    write_bytes(ONNX_INT8_MODEL, small_content)
    write_json(
        ONNX_METRICS,
        {
            "opset": params.export.opset,
            "fp32": {
                "bytes": len(content),
                "largest_difference": float(f"{parity.largest_difference:.3g}"),
                "agreement": parity.agreement,
                "accuracy": parity.accuracy,
            },
            "int8": {
                "bytes": len(small_content),
                "validation_accuracy_loss": round(loss, 6),
                "accuracy": measure_accuracy(small, test),
            },
        },
    )
    for path, size in ((ONNX_MODEL, len(content)), (ONNX_INT8_MODEL, len(small_content))):
        print(f"{path}: {size:,} bytes")
    print(f"accuracy {parity.accuracy:.4f} by onnxruntime; int8 loses {loss:.4f} on validation")


if __name__ == "__main__":
    with running("export"):
        main()
