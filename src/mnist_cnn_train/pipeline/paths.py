"""Paths of the pipeline's files, relative to the repository's root (as in dvc.yaml)."""

from pathlib import Path

from mnist_cnn.core.location import ONNX_MODEL as ONNX_MODEL

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")
RAW_DATA = Path("data/raw")
IMAGE_FOLDER = Path("data/own")
CHECKPOINTS = Path(".checkpoints")
WEIGHTS = Path("models/model.safetensors")
ONNX_INT8_MODEL = Path("models/mnist_cnn.int8.onnx")
VALIDATION = Path("metrics/validation.json")
ACCURACY = Path("metrics/accuracy.json")
ONNX_METRICS = Path("metrics/onnx.json")
TRAINING_LOG = Path("metrics/plots/training.csv")
CONFUSION = Path("metrics/plots/confusion.csv")
CURVES = Path("metrics/plots/curves.png")
RELIABILITY = Path("metrics/plots/reliability.png")
MISCLASSIFIED = Path("metrics/plots/misclassified.png")
