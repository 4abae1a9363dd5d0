"""Check the ONNX model with weights in eight bits."""

from onnx import ModelProto

from mnist_cnn.core.errors import CheckFailedError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.export.parity import run_logits


def check_int8(small: ModelProto, model: ModelProto, digits: Dataset, limit: float) -> float:
    """Compare the accuracy of `small` with that of `model` on `digits`.

    Args:
        small: result of `export_onnx` with `int8`.
        model: result of `export_onnx` for the same network.
        digits: images that the network was not trained on, or the comparison would be biased.
        limit: largest drop in accuracy compared with `model`.

    Returns:
        The accuracy of `small`, from 0 to 1, which is the same on all processors.

    Raises:
        CheckFailedError: if the accuracy drops by more.
    """
    logits = (run_logits(one, digits.images, as_written=True) for one in (model, small))
    full, accuracy = (float((of.argmax(axis=1) == digits.labels).mean()) for of in logits)
    loss = full - accuracy
    if not loss <= limit + 1e-9:  # allow for rounding
        raise CheckFailedError(
            f"in int8 the accuracy drops by {loss:.4f}, more than export.max_int8_accuracy_drop "
            f"{limit:g}; no int8 model was written"
        )
    return accuracy
