"""The command `mnist-cnn`.

What a command needs is imported when it runs: `--help` need not wait for onnxruntime, nor reading
a picture for torch.
"""

import os
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mnist_cnn.errors import MnistCnnError, told_plainly
from mnist_cnn.paths import (
    ACCURACY,
    PICTURES,
    PICTURES_FIGURE,
    RAW_DATA,
    RECIPES,
    ROBUSTNESS,
    ROBUSTNESS_FIGURE,
    STUDY_FIGURE,
    VALIDATION,
)
from mnist_cnn.processor import cap

if TYPE_CHECKING:
    from mnist_cnn.digits import Digits
    from mnist_cnn.listing import Form
    from mnist_cnn.pictures import Grey
    from mnist_cnn.scoring import Engine

Command = TypeVar("Command", bound=Callable[..., Any])

MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="An ONNX file of the pipeline's, instead of the one that comes with the package.",
)


def _examples(*lines: str) -> str:
    """What `--help` ends with; the first character keeps click from filling the lines up."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _form(command: Command) -> Command:
    """The options `--json` and `--csv`, which set `form`."""
    for form, words in (("csv", "comma-separated values"), ("json", "one JSON object in a line")):
        option = click.option(f"--{form}", "form", flag_value=form, help=f"Print {words}.")
        command = option(command)
    return command


def _word(context: click.Context, option: click.Parameter, value: str) -> str:
    """A name that DVC and git take, too."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise click.BadParameter(f"{value!r} should be of letters, digits, - and _")
    return value


class _Group(click.Group):
    """Ends with 130 on Ctrl-C, as shells expect; click's own ends with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("mnist-cnn: interrupted", err=True)
            ctx.exit(130)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="mnist-cnn")
def commands() -> None:
    """Read handwritten digits in pictures, and work with the pipeline that learnt to."""


@commands.command(
    epilog=_examples(
        "mnist-cnn predict seven.png",
        "mnist-cnn predict --top 3 scans/ 'more/*.jpg'",
        "mnist-cnn predict --csv scans/ > digits.csv",
    )
)
@click.argument("pictures", metavar="PATH...", nargs=-1, required=True)
@_form
@click.option("--top", type=click.IntRange(1), default=1, help="List the K likeliest.", metavar="K")
@MODEL
def predict(pictures: tuple[str, ...], form: "Form | None", top: int, model: Path | None) -> None:
    """Read pictures that hold one digit each.

    A PATH is a picture, a folder of pictures, a pattern in quotes, or - for a picture on the
    standard input. What cannot be read is named in the end, and makes the exit code 1.
    """
    from tqdm import tqdm

    from mnist_cnn.listing import Listing
    from mnist_cnn.pictures import find_pictures
    from mnist_cnn.recognizer import Recognizer

    recognizer = Recognizer(model)
    listing = Listing(form or "table", min(top, len(recognizer.labels)))
    names = list(find_pictures(pictures))
    if not names:
        raise MnistCnnError(f"there are no pictures in {', '.join(pictures)}")
    failures: list[str] = []
    loaded: deque[str] = deque()

    def load() -> Iterator["Grey"]:
        for name, grey in _load_each(names, failures):
            loaded.append(name)
            yield grey

    # The bar would be of no use among a few lines.
    shown = None if len(names) > 100 else True
    with tqdm(total=len(names), unit="picture", disable=shown, leave=False) as progress:
        for reading in recognizer.predict_many(load()):
            progress.update()
            for line in listing.lines(loaded.popleft(), reading):
                progress.write(line)
    _report(failures, len(names))


@commands.command(
    epilog=_examples("mnist-cnn read page.jpg", "mnist-cnn read --boxes found.png page.jpg")
)
@click.argument("picture", metavar="PATH")
@click.option(
    "--boxes", type=click.Path(path_type=Path), help="Draw where each digit was found, into a file."
)
@_form
@MODEL
def read(picture: str, boxes: Path | None, form: "Form | None", model: Path | None) -> None:
    """Read a row or a page of separate digits.

    PATH is a picture, or - for one on the standard input.
    """
    from mnist_cnn.listing import Listing
    from mnist_cnn.recognizer import Recognizer

    source = _standard_input() if picture == "-" else picture
    readings = Recognizer(model).read(source)
    if boxes:
        from mnist_cnn.boxes import draw_boxes

        draw_boxes(source, readings, boxes)
    listing = Listing(form or "table")
    for reading in readings:
        for line in listing.lines(picture, reading):
            click.echo(line)
    if not readings:
        click.echo(f"mnist-cnn: {picture}: no digits were found", err=True)


def _standard_input() -> bytes:
    from mnist_cnn.pictures import MOST_BYTES

    return sys.stdin.buffer.read(MOST_BYTES + 1)


def _load_each(names: Iterable[str], failures: list[str]) -> Iterator[tuple[str, "Grey"]]:
    """The pictures that can be read; what is wrong with the others is added to `failures`."""
    from mnist_cnn.pictures import PictureError, load_grey

    for name in names:
        try:
            grey = load_grey(_standard_input() if name == "-" else name)
        except PictureError as error:
            problem = str(error)
            if name == "-":
                problem = problem.replace("the picture", "standard input", 1)
            failures.append(problem)
        else:
            yield name, grey


def _report(failures: list[str], pictures: int) -> None:
    if failures:
        raise MnistCnnError(
            f"{len(failures):,} of {pictures:,} pictures could not be read:\n  "
            + "\n  ".join(failures)
        )


@commands.command(
    epilog=_examples(
        "mnist-cnn score scans/ readings",
        "mnist-cnn score digits.parquet readings --column pixels --id number",
        "mnist-cnn score digits/ readings --engine ray",
    )
)
@click.argument("source", metavar="INPUT", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUTPUT", type=click.Path(path_type=Path, file_okay=False))
@click.option("--column", default="image", show_default=True, help="Of the images, in Parquet.")
@click.option("--id", "key", help="The column that names them.  [default: id or path, if there]")
@click.option("--workers", type=click.IntRange(1), help="At once.  [default: one a processor]")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="What runs the workers; ray, on a cluster if RAY_ADDRESS names one.",
)
@click.option(
    "--part-size",
    type=click.IntRange(1),
    metavar="N",
    help="Images in one file.  [default: 1,024 to 65,536]",
)
@MODEL
def score(
    source: Path,
    output: Path,
    column: str,
    key: str | None,
    workers: int | None,
    engine: "Engine",
    part_size: int | None,
    model: Path | None,
) -> None:
    """Read millions of images into Parquet.

    INPUT is a Parquet file, a folder of such, or a folder of pictures. In Parquet, images are
    encoded pictures (PNG, JPEG, ...), structs with such `bytes`, or 784 pixels as MNIST's.

    OUTPUT is a folder of Parquet files: what names the image, its label, the probability of each
    label, and a warning. Stopped at any moment, the same command goes on. What cannot be read has
    a warning that says why, and makes the exit code 1 in the end.
    """
    from mnist_cnn.scoring import score as score_all

    summary = score_all(
        source,
        output,
        model=model,
        column=column,
        key=key,
        size=part_size,
        workers=workers,
        engine=engine,
    )
    kept = f" ({summary.kept:,} of them kept)" if summary.kept else ""
    click.echo(f"{output}: images: {summary.images:,}, parts: {summary.parts:,}{kept}")
    if summary.unreadable:
        raise MnistCnnError(
            f"{summary.unreadable:,} of {summary.images:,} images could not be read; in {output}, "
            "their warnings say why"
        )


@commands.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="By default, a free one.")
@click.option("--browser/--no-browser", default=True, help="Open the page.", show_default=True)
@MODEL
def demo(port: int, browser: bool, model: Path | None) -> None:
    """Open a page to draw digits on, or drop pictures onto.

    It is served to this machine alone, until Ctrl-C.
    """
    from mnist_cnn.demo import serve
    from mnist_cnn.recognizer import Recognizer

    serve(Recognizer(model), port, browser)


@commands.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
def info(model: Path | None) -> None:
    """Print what an ONNX file says about itself.

    MODEL is the one that comes with the package, unless another is given.
    """
    from mnist_cnn.recognizer import default_model, open_model

    path = model or default_model()
    session = open_model(path)
    described = {"file": f"{path}, {path.stat().st_size:,} bytes"}
    for role, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            described[f"{role} {value.name}"] = f"{value.type} {value.shape}"
    described |= dict(sorted(session.get_modelmeta().custom_metadata_map.items()))
    width = max(map(len, described))
    for name, value in described.items():
        click.echo(f"{name:{width}}  {value}")


@commands.command(
    context_settings={"ignore_unknown_options": True},
    epilog=_examples(
        "mnist-cnn run record --name record && dvc exp apply record",
        "mnist-cnn run robust -S train.seed=1",
    ),
)
@click.argument("recipe")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTION OF dvc exp run]...")
def run(recipe: str, options: tuple[str, ...]) -> None:
    """Run the pipeline with a RECIPE of recipes.yaml, as a DVC experiment.

    It runs in a copy of the project: where a stage fails, nothing here has changed. `dvc exp apply`
    brings the results here.
    """
    from mnist_cnn.experiments import arguments
    from mnist_cnn.study import GROUPS, read_recipes

    known = {key: value for group in GROUPS for key, value in read_recipes(RECIPES, group).items()}
    if recipe not in known:
        raise MnistCnnError(f"{RECIPES} has no recipe {recipe!r}; known: {', '.join(known)}")
    command = ["dvc", "exp", "run", "--temp", *arguments(known[recipe]), *options]
    os.execvp(command[0], command)  # noqa: S606


@commands.command()
@click.argument("group", type=click.Choice(["published", "robust", "ablation"]))
@click.option("--seeds", type=click.IntRange(2), default=10, show_default=True, help="How many.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="At once.")
def study(group: str, seeds: int, jobs: int) -> None:
    """Run each recipe of a GROUP in recipes.yaml over several seeds, and sum them up.

    Writes metrics/study.json (published), metrics/robust.json or metrics/ablation.json. What has
    run already, also before an interruption, is kept.
    """
    from mnist_cnn.artifacts import write_json
    from mnist_cnn.figures import draw_study
    from mnist_cnn.study import GROUPS, read_recipes, report, run_study

    recipes = read_recipes(RECIPES, group)
    results = run_study(recipes, GROUPS[group], seeds, jobs)
    content = report(recipes, results)
    write_json(GROUPS[group].report, content)
    if group == "published":
        draw_study(content, STUDY_FIGURE)


@commands.command(
    epilog=_examples(
        "mnist-cnn sweep --jobs 2",
        "mnist-cnn sweep --best && dvc exp apply sweep-best",
        "mnist-cnn sweep --storage postgresql+psycopg2://user@host/sweeps",
    )
)
@click.option(
    "--name", default="sweep", show_default=True, callback=_word, help="Of the study; many may be."
)
@click.option(
    "--storage",
    metavar="URL",
    envvar="MNIST_CNN_STORAGE",
    show_envvar=True,
    help="A database that several machines reach; by default, .checkpoints/sweeps.db.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="At once, here.")
@click.option("--best", is_flag=True, help="Run the pipeline with the best trial's settings.")
def sweep(name: str, storage: str | None, jobs: int, best: bool) -> None:
    """Search for better settings, by what sweep.yaml says.

    Each trial is a short training, judged by the validation images alone. Whoever runs the same
    command, also in another shell or on another machine, joins in. It goes on where it was, until
    as many trials are finished as sweep.yaml wants.

    With --best, the whole pipeline is run with what was found, as the DVC experiment NAME-best.
    """
    from mnist_cnn.params import load_params
    from mnist_cnn.search_space import read_sweep

    cap()
    plan = read_sweep(load_params())
    from mnist_cnn.sweep import DATABASE, find_best, open_study, run_sweep, summary, take_best

    url = storage or DATABASE
    if not best:
        study = run_sweep(plan, url, name, jobs)
        for line in summary(study, plan.plan.trials):
            click.echo(line)
        rest = "" if name == "sweep" else f" --name {name}"
        click.echo(f"Take it: mnist-cnn sweep --best{rest}")
        return
    study = open_study(plan, url, name, make=False)
    experiment = f"{name}-best"
    click.echo(f"running the pipeline with the settings of trial {find_best(study).number}")
    metrics = take_best(study, experiment)
    for path in (VALIDATION, ACCURACY):
        for metric, value in metrics[str(path)]["data"].items():
            if metric in ("validation_loss", "validation_accuracy", "accuracy"):
                click.echo(f"{metric}: {value}")
    click.echo(f"Apply it: dvc exp apply {experiment}")


@commands.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--suite", is_flag=True, help="Judge it by damaged images of MNIST's kind instead.")
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
    """Judge an ONNX file as a reader of pictures.

    Writes metrics/pictures.json: how often digits disguised as people's pictures are read as
    they are read without, and how many pictures of no digit are noticed; and examples of each,
    metrics/plots/pictures.png.

    With --suite, writes metrics/robustness.json and metrics/plots/robustness.png: how the test
    images are read after 33 kinds of damage, each of five severities. Any model will do that takes
    and gives what the pipeline's own does.
    """
    cap()
    if suite:
        _judge_robustness(model, images or 2_000, validation)
    elif images or validation:
        raise click.UsageError("--images and --validation belong to --suite; give it too")
    else:
        _judge_pictures(model)


def _judge_pictures(model: Path | None) -> None:
    import numpy as np

    from mnist_cnn.artifacts import write_json
    from mnist_cnn.disguises import examples, judge_disguises, judge_no_digits
    from mnist_cnn.figures import draw_pictures
    from mnist_cnn.recognizer import Recognizer
    from mnist_cnn.rejection import to_judge_by

    recognizer, digits = Recognizer(model), to_judge_by(_validation_digits())
    judged = {
        "images": len(digits),
        "disguises": judge_disguises(recognizer, digits),
        "caught": judge_no_digits(recognizer, len(digits)),
    }
    write_json(PICTURES, judged)
    shown = digits.take(np.arange(0, len(digits), max(1, len(digits) // 12)))
    draw_pictures(examples(recognizer, shown, 12), PICTURES_FIGURE)


def _validation_digits() -> "Digits":
    from mnist_cnn.digits import read_training_digits, stratified_split
    from mnist_cnn.params import load_params

    split = load_params().data.split
    _, validation = stratified_split(
        read_training_digits(RAW_DATA), split.train_images, split.validation_images, split.seed
    )
    return validation


def _judge_robustness(model: Path | None, images: int, validation: bool) -> None:
    from functools import partial

    import numpy as np

    from mnist_cnn.artifacts import write_json
    from mnist_cnn.digits import read_test_digits
    from mnist_cnn.figures import draw_robustness
    from mnist_cnn.recognizer import (
        default_model,
        noted_least_logits,
        open_reader,
        read_logits,
    )
    from mnist_cnn.robustness import examples, judge, told

    session = open_reader(model or default_model(), as_written=True)
    digits = _validation_digits() if validation else read_test_digits(RAW_DATA)
    digits = digits.take(np.arange(min(images, len(digits))))
    report = judge(partial(read_logits, session), digits, noted_least_logits(session))
    click.echo(told(report))
    if validation:
        return
    write_json(ROBUSTNESS, report)
    draw_robustness(report, examples(digits), ROBUSTNESS_FIGURE)


def main() -> None:
    """Run the command line; failures that a user can mend end in one line."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names need not be UTF-8
    warnings.filterwarnings("ignore", module="PIL")  # on damage that we tell of in our own words
    with told_plainly("mnist-cnn"):
        commands()
