"""Where the stages leave what they make, relative to the repository's root (as in dvc.yaml)."""

from pathlib import Path

PARAMS = Path("params.yaml")
RECIPES = Path("recipes.yaml")
SWEEP = Path("sweep.yaml")
PIPELINE = Path("dvc.yaml")
LOCK = Path("dvc.lock")

RAW_DATA = Path("data/raw")
OWN_PICTURES = Path("data/own")

CHECKPOINTS = Path(".checkpoints")
SWEEPS = CHECKPOINTS / "sweeps.db"

WEIGHTS = Path("models/model.safetensors")
ONNX_MODEL = Path("models/mnist_cnn.onnx")
ONNX_INT8_MODEL = Path("models/mnist_cnn.int8.onnx")

VALIDATION = Path("metrics/validation.json")
ACCURACY = Path("metrics/accuracy.json")
ONNX_METRICS = Path("metrics/onnx.json")
STUDY = Path("metrics/study.json")
ABLATION = Path("metrics/ablation.json")
PICTURES = Path("metrics/pictures.json")
ROBUSTNESS = Path("metrics/robustness.json")
ROBUST_STUDY = Path("metrics/robust.json")

TRAINING_LOG = Path("metrics/plots/training.csv")
CONFUSION = Path("metrics/plots/confusion.csv")
CURVES = Path("metrics/plots/curves.png")
RELIABILITY = Path("metrics/plots/reliability.png")
PICTURES_FIGURE = Path("metrics/plots/pictures.png")
ROBUSTNESS_FIGURE = Path("metrics/plots/robustness.png")
STUDY_FIGURE = Path("metrics/plots/study.png")
MISCLASSIFIED = Path("metrics/plots/misclassified.png")
