"""Paths of the experiments' settings and results."""

from pathlib import Path

from mnist_cnn_train.pipeline.paths import CHECKPOINTS

RECIPES = Path("recipes.yaml")
SWEEP = Path("sweep.yaml")
SWEEPS = CHECKPOINTS / "sweeps.db"
CARD = Path("src/mnist_cnn/reader.md")
SEEDS = Path("metrics/seeds.json")
ABLATION = Path("metrics/ablation.json")
PICTURES = Path("metrics/pictures.json")
ROBUSTNESS = Path("metrics/robustness.json")
READER = Path("metrics/reader.json")
READER_ABLATION = Path("metrics/reader_ablation.json")
PARETO = Path("metrics/pareto.json")
PARETO_FIGURE = Path("metrics/plots/pareto.png")
GPU = Path("metrics/gpu.json")
RUNTIMES = Path("metrics/runtimes.json")
C_HEADER = Path("metrics/c_header.json")
PICTURES_FIGURE = Path("metrics/plots/pictures.png")
ROBUSTNESS_FIGURE = Path("metrics/plots/robustness.png")
SEEDS_FIGURE = Path("metrics/plots/seeds.png")
FOOLED_FIGURE = Path("docs/images/fooled.png")
