"""Where the reader's ONNX file is."""

from pathlib import Path

ONNX_MODEL = Path("models/mnist_cnn.onnx")  # from the root of a checkout
PACKAGE = Path(__file__).parents[1]


def default_model() -> Path:
    """The ONNX file in the installed package; in a checkout, what a pipeline made.

    That of the current folder comes first, then that of the checkout that the code is from.
    """
    packaged, made = PACKAGE / ONNX_MODEL.name, PACKAGE.parents[1] / ONNX_MODEL
    return next((path for path in (packaged, ONNX_MODEL) if path.is_file()), made)
