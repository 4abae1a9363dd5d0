"""The command `python -m mnist_cnn_train`: many runs of the pipeline, and what its models can do.

What a command needs is imported when it runs: `--help` need not wait for torch.
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
    PICTURES,
    PICTURES_FIGURE,
    RECIPES,
    ROBUSTNESS,
    ROBUSTNESS_FIGURE,
    SEEDS_FIGURE,
)
from mnist_cnn_train.pipeline.paths import ACCURACY, RAW_DATA, VALIDATION
from mnist_cnn_train.pipeline.processor import cap, this_processor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from mnist_cnn_train.data.dataset import Dataset


def _word(context: click.Context, option: click.Parameter, value: str) -> str:
    """A name that DVC and git take, too."""
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
        "python -m mnist_cnn_train run robust -S train.seed=1",
    ),
)
@click.argument("recipe")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION OF dvc exp run]...")
def run(recipe: str, options: tuple[str, ...]) -> None:
    """Run the pipeline with a RECIPE of recipes.yaml, as a DVC experiment.

    It runs in a copy of the project: where a stage fails, nothing here has changed. `dvc exp apply`
    brings the results here.
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
@click.argument("group", type=click.Choice(["published", "robust", "ablation"]))
@click.option(
    "--seeds", "count", type=click.IntRange(2), default=10, show_default=True, help="How many."
)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="At once.")
def seeds(group: str, count: int, jobs: int) -> None:
    """Run each recipe of a GROUP in recipes.yaml over several seeds, and sum them up.

    Writes metrics/seeds.json (published), metrics/robust.json or metrics/ablation.json. What has
    run already, also before an interruption, is kept.
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
    help="A database that several machines reach; by default, .checkpoints/sweeps.db.",
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
    """Search for better settings with Optuna, as sweep.yaml says.

    Each trial is a short training, evaluated on the validation images alone. Run the same command
    in more shells, or on more machines, to add workers, and run it again to resume.

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
@click.option("--suite", is_flag=True, help="Evaluate it on corrupted test images instead.")
@click.option(
    "--images",
    type=click.IntRange(1, 10_000),
    help="For --suite: how many of the images; by default 2,000.",
)
@click.option(
    "--validation",
    is_flag=True,
    help="For --suite: by the validation images, which recipes are chosen by; writes nothing.",
)
def evaluate(model: Path | None, suite: bool, images: int | None, validation: bool) -> None:
    """Evaluate an ONNX file as a reader of pictures.

    Writes metrics/pictures.json: how often digits in people's kinds of pictures are classified as
    the digits themselves are, and how many pictures of no digit are noticed; and examples of
    each, metrics/plots/pictures.png.

    With --suite, writes metrics/robustness.json and metrics/plots/robustness.png: how the test
    images are read after 33 kinds of damage, each of five severities. Any model will do that takes
    and gives what the pipeline's own does.
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
    from mnist_cnn.core.location import default_model
    from mnist_cnn.onnxfile.session import open_model
    from mnist_cnn.reader.recognizer import Recognizer
    from mnist_cnn_train.evaluation.picture_suite import (
        evaluate_non_digits,
        evaluate_pictures,
        examples,
    )
    from mnist_cnn_train.evaluation.suite_figures import plot_pictures
    from mnist_cnn_train.export.thresholds import holdout_split

    path = model or default_model()
    recognizer, digits = Recognizer(path), holdout_split(_validation_digits())
    results = {
        "weights_sha256": _weights_sha256(open_model(path)),
        "images": len(digits),
        "disguises": evaluate_pictures(recognizer, digits),
        "caught": evaluate_non_digits(recognizer, len(digits)),
    }
    write_json(PICTURES, results)
    shown = digits.take(np.arange(0, len(digits), max(1, len(digits) // 12)))
    plot_pictures(examples(recognizer, shown, 12), PICTURES_FIGURE)


def _validation_digits() -> "Dataset":
    from mnist_cnn_train.data.split import load_split
    from mnist_cnn_train.pipeline.params import load_params

    _, validation = load_split(RAW_DATA, load_params().data.split)
    return validation


def _evaluate_corruptions(model: Path | None, images: int, validation: bool) -> None:
    from functools import partial

    import numpy as np

    from mnist_cnn.core.files import write_json
    from mnist_cnn.core.location import default_model
    from mnist_cnn.onnxfile.session import open_reader, read_logit_thresholds, read_logits
    from mnist_cnn_train.data.dataset import read_test_digits
    from mnist_cnn_train.evaluation.corruption_suite import (
        evaluate_corruptions,
        examples,
        format_summary,
    )
    from mnist_cnn_train.evaluation.suite_figures import plot_robustness

    session = open_reader(model or default_model(), as_written=True)
    digits = _validation_digits() if validation else read_test_digits(RAW_DATA)
    digits = digits.take(np.arange(min(images, len(digits))))
    report = evaluate_corruptions(
        partial(read_logits, session), digits, read_logit_thresholds(session)
    )
    click.echo(format_summary(report))
    if validation:
        return
    write_json(ROBUSTNESS, {"weights_sha256": _weights_sha256(session), **report})
    plot_robustness(report, examples(digits), ROBUSTNESS_FIGURE)


def _weights_sha256(session: "InferenceSession") -> str | None:
    """That of the weights which a model was exported from; None for a model of another kind."""
    properties: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return properties.get("weights_sha256")


def main() -> None:
    """Run the command line; failures that a user can mend end in one line."""
    with exit_on_error("mnist_cnn_train"):
        commands(prog_name="python -m mnist_cnn_train")
