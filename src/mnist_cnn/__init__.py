"""Read handwritten digits with a tiny ONNX network."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_cnn.imaging.load import PictureError
    from mnist_cnn.reader.recognizer import Prediction, Recognizer

__all__ = ["PictureError", "Prediction", "Recognizer"]


def __getattr__(name: str) -> Any:
    """Import the recognizer on first use: no stage of the pipeline needs it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("mnist_cnn.reader.recognizer"), name)
