"""Where the experiments' settings and results are."""

from pathlib import Path

from mnist_cnn_train.pipeline.paths import CHECKPOINTS

RECIPES = Path("recipes.yaml")
SWEEP = Path("sweep.yaml")
SWEEPS = CHECKPOINTS / "sweeps.db"
STUDY = Path("metrics/study.json")
ABLATION = Path("metrics/ablation.json")
PICTURES = Path("metrics/pictures.json")
ROBUSTNESS = Path("metrics/robustness.json")
ROBUST_STUDY = Path("metrics/robust.json")
PICTURES_FIGURE = Path("metrics/plots/pictures.png")
ROBUSTNESS_FIGURE = Path("metrics/plots/robustness.png")
STUDY_FIGURE = Path("metrics/plots/study.png")
