"""Turn the trained network into one ONNX file, once onnxruntime agrees with torch."""

import torch

from mnist_cnn.artifacts import sha256, write_bytes, write_json
from mnist_cnn.digits import read_test_digits
from mnist_cnn.errors import told_plainly
from mnist_cnn.model import build
from mnist_cnn.onnx_export import check_parity, describe, export_onnx
from mnist_cnn.params import load_params
from mnist_cnn.paths import ONNX_METRICS, ONNX_MODEL, RAW_DATA, WEIGHTS
from mnist_cnn.weights import load_weights


def main() -> None:
    """Write the ONNX model and metrics/onnx.json."""
    params = load_params()
    network = build(params.model)
    load_weights(network, WEIGHTS)
    torch.set_num_threads(1)  # one rounding, however many cores there are
    digits = read_test_digits(RAW_DATA)
    for outdated in (ONNX_MODEL, ONNX_METRICS):  # a failed check must leave no model behind
        outdated.unlink(missing_ok=True)
    model = export_onnx(network, params.export.opset, describe(network, sha256(WEIGHTS)))
    parity = check_parity(model, network, digits, params.export.tolerance)

    content = model.SerializeToString()
    write_bytes(ONNX_MODEL, content)
    write_json(
        ONNX_METRICS,
        {
            "bytes": len(content),
            "opset": params.export.opset,
            "largest_difference": float(f"{parity.largest_difference:.3g}"),
            "agreement": parity.agreement,
            "onnxruntime_accuracy": parity.accuracy,
        },
    )
    print(f"{ONNX_MODEL}: {len(content):,} bytes, accuracy {parity.accuracy:.4f} by onnxruntime")


if __name__ == "__main__":
    with told_plainly("export"):
        main()
