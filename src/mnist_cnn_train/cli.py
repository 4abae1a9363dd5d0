"""The command `python -m mnist_cnn_train`: multiple pipeline runs, and evaluation of models.

Commands import their dependencies when they run, so that `--help` does not wait for torch.
"""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist_cnn.cli.options import Group, examples
from mnist_cnn.core.errors import MnistCnnError, exit_on_error
from mnist_cnn_train.experiments.paths import (
    FOOLED_FIGURE,
    PICTURES,
    PICTURES_FIGURE,
    RECIPES,
    ROBUSTNESS,
    ROBUSTNESS_FIGURE,
    SEEDS_FIGURE,
)
from mnist_cnn_train.pipeline.paths import ACCURACY, ONNX_MODEL, RAW_DATA, VALIDATION, WEIGHTS
from mnist_cnn_train.pipeline.processor import cap, this_processor

if TYPE_CHECKING:
    from mnist_cnn_train.data.dataset import Dataset


def _word(context: click.Context, option: click.Parameter, value: str) -> str:
    """Accept only names that DVC and git accept too."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise click.BadParameter(f"{value!r} should be of letters, digits, - and _")
    return value


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def commands() -> None:
    """Run recipes, seeds and sweeps of the pipeline, and evaluate its models."""


@commands.command(
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "python -m mnist_cnn_train run record --name record && dvc exp apply record",
        "python -m mnist_cnn_train run reader -S train.seed=1",
    ),
)
@click.argument("recipe")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION OF dvc exp run]...")
def run(recipe: str, options: tuple[str, ...]) -> None:
    """Run the pipeline with a RECIPE from recipes.yaml, as a DVC experiment.

    The experiment runs in a copy of the project, so a failed stage changes nothing here. Use
    `dvc exp apply` to copy the results here.
    """
    from mnist_cnn_train.experiments.dvc import arguments
    from mnist_cnn_train.experiments.recipes import read_recipes
    from mnist_cnn_train.experiments.seeds import GROUPS

    known = {key: value for group in GROUPS for key, value in read_recipes(RECIPES, group).items()}
    if recipe not in known:
        raise MnistCnnError(f"{RECIPES} has no recipe {recipe!r}; known: {', '.join(known)}")
    command = ["dvc", "exp", "run", "--temp", *arguments(known[recipe]), *options]
    os.execvp(command[0], command)  # noqa: S606


@commands.command()
@click.argument("group", type=click.Choice(["published", "reader", "ablation"]))
@click.option(
    "--seeds",
    "count",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Number of seeds.",
)
@click.option(
    "--jobs", type=click.IntRange(1), default=2, show_default=True, help="Number of parallel runs."
)
def seeds(group: str, count: int, jobs: int) -> None:
    """Run each recipe of a GROUP in recipes.yaml with several seeds, and summarize the results.

    Writes metrics/seeds.json (published), metrics/reader.json or metrics/ablation.json. Finished
    runs are reused, also after an interruption.
    """
    from mnist_cnn.core.files import read_json, write_json
    from mnist_cnn_train.experiments.figures import plot_seeds
    from mnist_cnn_train.experiments.recipes import read_recipes
    from mnist_cnn_train.experiments.seeds import GROUPS, report, run_seeds

    recipes = read_recipes(RECIPES, group)
    pipeline = read_json(VALIDATION)["weights_sha256"]
    results = run_seeds(recipes, GROUPS[group], count, jobs)
    content = report(recipes, results, pipeline, str(this_processor()))
    write_json(GROUPS[group].report, content)
    if group == "published":
        plot_seeds(content, SEEDS_FIGURE)


@commands.command(
    epilog=examples(
        "python -m mnist_cnn_train sweep --jobs 2",
        "python -m mnist_cnn_train sweep --best && dvc exp apply sweep-best",
        "python -m mnist_cnn_train sweep --storage postgresql+psycopg2://user@host/sweeps",
    )
)
@click.option(
    "--name", default="sweep", show_default=True, callback=_word, help="Name of the study."
)
@click.option(
    "--storage",
    metavar="URL",
    envvar="MNIST_CNN_STORAGE",
    show_envvar=True,
    help="Database that all workers can reach; by default, .checkpoints/sweeps.db.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of worker processes.",
)
@click.option("--best", is_flag=True, help="Run the pipeline with the best trial's settings.")
def sweep(name: str, storage: str | None, jobs: int, best: bool) -> None:
    """Search for better settings with Optuna, as configured in sweep.yaml.

    Each trial is a short training run, evaluated on the validation images only. To add workers, run
    the same command in more shells or on more machines; to resume, run it again.

    With --best, run the whole pipeline with the best trial's settings, as the DVC experiment
    NAME-best.
    """
    from mnist_cnn_train.experiments.dvc import run_experiment
    from mnist_cnn_train.experiments.search_space import read_sweep
    from mnist_cnn_train.pipeline.params import load_params

    cap()
    plan = read_sweep(load_params())
    from mnist_cnn_train.experiments.sweep import DATABASE, open_study, run_sweep

    url, experiment = storage or DATABASE, f"{name}-best"
    study = open_study(plan, url, name, create=False) if best else run_sweep(plan, url, name, jobs)
    try:
        winner = study.best_trial
    except ValueError:
        raise MnistCnnError("every trial was pruned; set more trials in sweep.yaml") from None
    click.echo(f"best trial: {winner.number}, with {plan.plan.objective} {winner.value:.4f}")
    for key, value in winner.params.items():
        click.echo(f"  {key}: {json.dumps(value)}")
    if not best:
        option = "" if name == "sweep" else f" --name {name}"
        click.echo(f"Run it in full: python -m mnist_cnn_train sweep --best{option}")
        return
    metrics = run_experiment(experiment, winner.params)
    for path in (VALIDATION, ACCURACY):
        for metric, value in metrics[str(path)]["data"].items():
            if metric in ("validation_loss", "validation_accuracy", "accuracy"):
                click.echo(f"{metric}: {value}")
    click.echo(f"Apply it: dvc exp apply {experiment}")


@commands.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--suite", is_flag=True, help="Evaluate on corrupted test images instead.")
@click.option(
    "--images",
    type=click.IntRange(1, 10_000),
    help="With --suite: number of images; by default 2,000.",
)
@click.option(
    "--validation",
    is_flag=True,
    help="With --suite: use the validation images, to compare recipes; writes nothing.",
)
def evaluate(model: Path | None, suite: bool, images: int | None, validation: bool) -> None:
    """Evaluate an ONNX file on everyday pictures.

    Writes metrics/pictures.json: how often digits, rendered as various kinds of pictures, get the
    same prediction as the original images, and how many rows of four digits, separate or touching,
    are read without any error. Also writes examples of each kind to metrics/plots/pictures.png.

    With --suite, writes metrics/robustness.json and metrics/plots/robustness.png: accuracy on the
    test images under 33 corruptions at five severities each. This works for any model with the same
    inputs and outputs as the pipeline's.
    """
    cap()
    if suite:
        _evaluate_corruptions(model, images or 2_000, validation)
    elif images or validation:
        raise click.UsageError("--images and --validation belong to --suite; give it too")
    else:
        _evaluate_pictures(model)


def _evaluate_pictures(model: Path | None) -> None:
    import numpy as np

    from mnist_cnn.core.files import write_json
    from mnist_cnn.core.location import DEFAULT_MODEL
    from mnist_cnn.onnxfile.model import DigitModel
    from mnist_cnn.reader.recognizer import Recognizer
    from mnist_cnn_train.evaluation.picture_suite import (
        evaluate_pictures,
        examples,
    )
    from mnist_cnn_train.evaluation.rows import evaluate_rows
    from mnist_cnn_train.evaluation.suite_figures import plot_pictures
    from mnist_cnn_train.export.thresholds import holdout_split

    path = model or DEFAULT_MODEL
    recognizer, digits = Recognizer(path), holdout_split(_validation_digits())
    results = {
        "weights_sha256": DigitModel(path).properties.get("weights_sha256"),
        "images": len(digits),
        "pictures": evaluate_pictures(recognizer, digits),
        "rows": evaluate_rows(recognizer, digits),
    }
    write_json(PICTURES, results)
    shown = digits.take(np.arange(0, len(digits), max(1, len(digits) // 8)))
    plot_pictures(examples(recognizer, shown, 8), PICTURES_FIGURE)


@commands.command()
def fooled() -> None:
    """Draw pictures that the pipeline's model misreads, and how the packaged reader reads them.

    Writes docs/images/fooled.png. The pictures are drawn from validation images.
    """
    cap()
    from mnist_cnn.reader.recognizer import Recognizer
    from mnist_cnn_train.evaluation.fooled import find_fooled
    from mnist_cnn_train.evaluation.suite_figures import plot_fooled
    from mnist_cnn_train.export.thresholds import holdout_split

    digits = holdout_split(_validation_digits())
    found = find_fooled(Recognizer(ONNX_MODEL), Recognizer(), digits, each=3)
    plot_fooled(found, FOOLED_FIGURE)


@commands.command()
def touching() -> None:
    """Fit how the reader chooses among the pieces of digits that touch.

    Writes src/mnist_cnn/reader/touching.json, from rows of the validation digits on which the
    reader's threshold is set; the others are left to evaluate on. `make release` runs it.
    """
    cap()
    from mnist_cnn.core.files import write_json
    from mnist_cnn.core.location import DEFAULT_MODEL
    from mnist_cnn.onnxfile.model import DigitModel
    from mnist_cnn.reader.touching import WEIGHTS
    from mnist_cnn_train.evaluation.rows import MIXED, draw_rows
    from mnist_cnn_train.experiments.touching import ROWS, candidates, fit
    from mnist_cnn_train.export.thresholds import threshold_split

    model = DigitModel(DEFAULT_MODEL)
    rows = draw_rows(threshold_split(_validation_digits()), ROWS, MIXED, seed=1)
    weights = fit(list(candidates(rows, model)), seed=0)
    content = {
        "weights_sha256": model.properties.get("weights_sha256"),
        "log_probability": round(weights.log_probability, 4),
        "features": weights.features.round(4).tolist(),
    }
    write_json(WEIGHTS, content)


@commands.command(
    epilog=examples("python -m mnist_cnn_train c-header && cc -std=c99 -Os -c -I models main.c")
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("models/mnist_cnn.h"),
    show_default=True,
    help="File to write.",
)
def c_header(output: Path) -> None:
    """Write the trained network as a C header for microcontrollers.

    Weights and activations have eight bits, and all arithmetic is in integers. Reads params.yaml,
    models/model.safetensors and some training images; docs/microcontroller.md shows how to use the
    header.
    """
    cap()
    from mnist_cnn.core.files import sha256, write_bytes
    from mnist_cnn_train.data.split import load_split
    from mnist_cnn_train.microcontroller.header import to_header
    from mnist_cnn_train.microcontroller.quantize import quantize
    from mnist_cnn_train.model.networks import build
    from mnist_cnn_train.model.weights import load_weights
    from mnist_cnn_train.pipeline.params import load_params

    params = load_params()
    training, _ = load_split(RAW_DATA, params.data.split)
    network = build(params.model, len(training.names))
    load_weights(network, WEIGHTS)
    quantized = quantize(network, training)
    header = to_header(quantized, params.model.architecture, training.names, sha256(WEIGHTS))
    write_bytes(output, header.encode())
    click.echo(f"{output}: {len(header):,} bytes of C")


def _validation_digits() -> "Dataset":
    from mnist_cnn_train.data.split import load_split
    from mnist_cnn_train.pipeline.params import load_params

    _, validation = load_split(RAW_DATA, load_params().data.split)
    return validation


def _evaluate_corruptions(model: Path | None, images: int, validation: bool) -> None:
    import numpy as np
    import numpy.typing as npt

    from mnist_cnn.core.files import write_json
    from mnist_cnn.core.location import DEFAULT_MODEL
    from mnist_cnn.onnxfile.model import DigitModel
    from mnist_cnn_train.data.dataset import read_test_digits
    from mnist_cnn_train.evaluation.corruption_suite import (
        evaluate_corruptions,
        examples,
        format_summary,
    )
    from mnist_cnn_train.evaluation.suite_figures import plot_robustness

    opened = DigitModel(model or DEFAULT_MODEL, as_written=True)
    digits = _validation_digits() if validation else read_test_digits(RAW_DATA)
    digits = digits.take(np.arange(min(images, len(digits))))

    def read(
        images: npt.NDArray[np.uint8],
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]:
        outputs = opened.run(images)
        return outputs.logits, outputs.is_doubtful

    report = evaluate_corruptions(read, digits)
    click.echo(format_summary(report))
    if validation:
        return
    write_json(ROBUSTNESS, {"weights_sha256": opened.properties.get("weights_sha256"), **report})
    plot_robustness(report, examples(digits), ROBUSTNESS_FIGURE)


def main() -> None:
    """Run the command line; report errors that a user can fix in one line."""
    with exit_on_error("mnist_cnn_train"):
        commands(prog_name="python -m mnist_cnn_train")
