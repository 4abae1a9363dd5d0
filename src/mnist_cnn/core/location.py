"""Location of the default ONNX file."""

from pathlib import Path

ONNX_MODEL = Path("models/mnist_cnn.onnx")  # relative to the root of a checkout
PACKAGE = Path(__file__).parents[1]


def default_model() -> Path:
    """Return the ONNX file in the installed package or, in a checkout, the pipeline's output.

    The current folder is searched before the checkout that contains this code.
    """
    packaged, made = PACKAGE / ONNX_MODEL.name, PACKAGE.parents[1] / ONNX_MODEL
    return next((path for path in (packaged, ONNX_MODEL) if path.is_file()), made)
