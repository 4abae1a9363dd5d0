"""Paths of the pipeline's files, relative to the repository's root (as in dvc.yaml)."""

from pathlib import Path

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")
RAW_DATA = Path("data/raw")
FONTS = Path("data/raw/fonts.zip")
SYNTHETIC_DATA = Path("data/synthetic")
IMAGE_FOLDER = Path("data/own")
CHECKPOINTS = Path(".checkpoints")
WEIGHTS = Path("models/model.safetensors")
ONNX_MODEL = Path("models/mnist_cnn.onnx")
ONNX_INT8_MODEL = Path("models/mnist_cnn.int8.onnx")
VALIDATION = Path("metrics/validation.json")
ACCURACY = Path("metrics/accuracy.json")
ONNX_METRICS = Path("metrics/onnx.json")
TRAINING_LOG = Path("metrics/plots/training.csv")
CONFUSION = Path("metrics/plots/confusion.csv")
CURVES = Path("metrics/plots/curves.png")
RELIABILITY = Path("metrics/plots/reliability.png")
MISCLASSIFIED = Path("metrics/plots/misclassified.png")
