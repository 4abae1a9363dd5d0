"""Location of the reader's own ONNX file."""

from pathlib import Path

DEFAULT_MODEL = Path(__file__).parents[1] / "reader.onnx"
