"""Read handwritten digits with a tiny ONNX network."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_cnn.core.errors import MnistCnnError

if TYPE_CHECKING:
    from mnist_cnn.imaging.load import PictureError
    from mnist_cnn.reader.recognizer import Prediction, Recognizer

    __version__: str

__all__ = ["MnistCnnError", "PictureError", "Prediction", "Recognizer", "__version__"]


def __getattr__(name: str) -> Any:
    """Look up the version, or import the recognizer, on first use: no stage needs them."""
    if name == "__version__":
        from importlib.metadata import version

        return version("mnist-cnn")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mnist_cnn.reader.recognizer"), name)
