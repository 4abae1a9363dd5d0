"""What each part of the recipe `reader` contributes, on the validation images.

Compares the eleventh output with two losses that need no output, and leaves out one kind of
synthetic image at a time. Writes metrics/reader_ablation.json, and skips what it holds.
"""

import argparse
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from mnist_cnn.core.files import read_json, write_json
from mnist_cnn.core.mnist import LABELS
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.data.split import load_split
from mnist_cnn_train.download.fonts import download_fonts
from mnist_cnn_train.evaluation.reader_suite import Rejection, Scores, as_seen, evaluate_reader
from mnist_cnn_train.experiments.dvc import Setting
from mnist_cnn_train.experiments.paths import READER_ABLATION, RECIPES
from mnist_cnn_train.experiments.recipes import read_recipes
from mnist_cnn_train.experiments.seeds import summarize
from mnist_cnn_train.model.networks import predict_logits
from mnist_cnn_train.pipeline.params import Params, changed, load_params, read_yaml
from mnist_cnn_train.pipeline.paths import CHECKPOINTS, PARAMS, RAW_DATA, VALIDATION
from mnist_cnn_train.pipeline.processor import cap, this_processor
from mnist_cnn_train.synthetic.build import synthesize
from mnist_cnn_train.synthetic.digits import redrawn
from mnist_cnn_train.training.loop import Criterion, train

EPOCHS = 6
FONTS = CHECKPOINTS / "fonts.zip"
CLASSES = len(LABELS)
DIGITS = 2_000  # validation images to tell non-digits from; and as many redrawn ones

# Of the energy loss, as Liu et al. have them for CIFAR-10: digits are to have less energy than the
# first, non-digits more than the second. After three epochs, they rejected more than (-10, -3).
ENERGY_MARGINS = (-23.0, -5.0)
ENERGY_WEIGHT = 0.1


def entropic(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy, with uniform labels for non-digits.

    Source: A. R. Dhamija, M. Günther, T. E. Boult, "Reducing network agnostophobia", NeurIPS 2018.
    """
    targets = torch.full_like(logits, 1 / CLASSES)
    is_digit = labels < CLASSES
    targets[is_digit] = functional.one_hot(labels[is_digit], CLASSES).to(logits)
    return functional.cross_entropy(logits, targets)


def energy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of digits, and squared hinge losses that keep energies apart.

    Source: W. Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020.
    """
    is_digit = labels < CLASSES
    values = -logits.logsumexp(dim=1)
    low, high = ENERGY_MARGINS
    hinge = torch.where(is_digit, values - low, high - values).relu().square()
    fit = functional.cross_entropy(logits[is_digit], labels[is_digit])
    return fit + ENERGY_WEIGHT * hinge.mean()


def odds_of_the_rest(logits: npt.NDArray[np.float32]) -> Scores:
    """Return the log-odds of all labels but the most likely."""
    ordered = np.sort(logits, axis=1)
    scores: Scores = logsumexp(ordered[:, :-1], axis=1) - ordered[:, -1]
    return scores


def free_energy(logits: npt.NDArray[np.float32]) -> Scores:
    """Return the energy of each image."""
    scores: Scores = -logsumexp(logits, axis=1)
    return scores


@dataclass(frozen=True)
class Variant:
    """Changes to the recipe `reader`; and how non-digits are trained on and scored, if not so."""

    changes: Mapping[str, Setting] = field(default_factory=dict)
    eleventh_output: bool = True
    criterion: Criterion | None = None
    rejection: Rejection | None = None


VARIANTS = {
    "eleventh output": Variant(),
    "entropic loss": Variant({}, False, entropic, odds_of_the_rest),
    "energy loss": Variant({}, False, energy, free_energy),
    "no non-digits": Variant({"synthesize.non_digits": 0}, False),
    "no digits of fonts": Variant({"synthesize.font_digits": 0}),
    "no redrawn digits": Variant({"synthesize.redrawn_digits": 0}),
    "no other forms": Variant({"synthesize.form_digits": 0}),
}


def settings(variant: Variant) -> Params:
    """Return the settings of `variant`."""
    recipe = read_recipes(RECIPES, "reader")["reader"]
    changes = {**recipe, "train.epochs": EPOCHS, **variant.changes}
    return Params.model_validate(changed(read_yaml(PARAMS), changes))


def measure(name: str, seed: int) -> dict[str, float]:
    """Train and evaluate a variant with one seed."""
    variant = VARIANTS[name]
    params = settings(variant)
    model = params.model.model_copy(update={"not_a_digit": variant.eleventh_output})
    recipe = params.train.model_copy(update={"seed": seed})
    training, validation = load_split(RAW_DATA, params.data.split)
    training += synthesize(training, FONTS, params.synthesize)
    trained = train(training, None, model, recipe, criterion=variant.criterion)
    return evaluate(trained.network, validation, variant.rejection)


def evaluate(
    network: nn.Module, validation: Dataset, rejection: Rejection | None
) -> dict[str, float]:
    """Evaluate `network` on validation images, and on pictures that nothing is trained on."""

    def read(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = predict_logits(network, torch.from_numpy(images)).numpy()
        return logits

    rng = np.random.default_rng(0)
    drawn = [redrawn(validation, rng) for _ in range(DIGITS)]
    sets = {
        "accuracy": (validation.images, validation.labels),
        "redrawn_accuracy": (
            as_seen(picture for picture, _ in drawn),
            np.array([label for _, label in drawn]),
        ),
    }
    accuracies = {
        name: round(float((read(images)[:, :CLASSES].argmax(axis=1) == labels).mean()), 6)
        for name, (images, labels) in sets.items()
    }
    few = validation.take(np.arange(DIGITS))
    return accuracies | evaluate_reader(read, few, FONTS, rejection=rejection)


def report(name: str, results: list[dict[str, float]]) -> dict[str, Any]:
    """Summarize a variant's `results`, one per seed."""
    metrics = {
        metric: {
            **summarize([found[metric] for found in results]),
            "seeds": {str(seed): found[metric] for seed, found in enumerate(results)},
        }
        for metric in results[0]
    }
    return {
        "changes": dict(VARIANTS[name].changes),
        "processor": f"{this_processor()}; torch {torch.__version__}",
        "pipeline_weights_sha256": read_json(VALIDATION)["weights_sha256"],
        **metrics,
    }


def main() -> None:
    """Run the variants that are not in the report yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if not FONTS.is_file():
        download_fonts(load_params().data.sources, FONTS)
    found = read_json(READER_ABLATION) if READER_ABLATION.is_file() else {}
    missing = [name for name in VARIANTS if name not in found]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn) as pool:
        waiting = {
            name: [pool.submit(measure, name, seed) for seed in range(options.seeds)]
            for name in missing
        }
        for name, runs in tqdm(waiting.items(), unit="variant"):
            found[name] = report(name, [run.result() for run in runs])
            write_json(READER_ABLATION, {name: found[name] for name in VARIANTS if name in found})


if __name__ == "__main__":
    cap()  # before a worker loads its libraries
    main()
