"""The command `mnist-cnn`."""

from pathlib import Path

import click

from mnist_cnn.errors import MnistCnnError, told_plainly
from mnist_cnn.paths import ONNX_MODEL, RECIPES, STUDY_FIGURE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mnist-cnn")
def commands() -> None:
    """Work with the digit reader that the pipeline makes."""


@commands.command()
@click.argument("model", type=click.Path(path_type=Path), default=ONNX_MODEL)
def info(model: Path) -> None:
    """Print what an ONNX file says about itself.

    MODEL is the pipeline's own, models/mnist_cnn.onnx, unless another is given.
    """
    described = describe_file(model)
    width = max(map(len, described))
    for name, value in described.items():
        click.echo(f"{name:{width}}  {value}")


@commands.command()
@click.argument("name")
def recipe(name: str) -> None:
    """Print a recipe of recipes.yaml as arguments: dvc exp run $(mnist-cnn recipe record)."""
    from mnist_cnn.study import GROUPS, arguments, read_recipes

    known = {key: value for group in GROUPS for key, value in read_recipes(RECIPES, group).items()}
    if name not in known:
        raise MnistCnnError(f"{RECIPES} has no recipe {name!r}; known: {', '.join(known)}")
    click.echo(" ".join(arguments(known[name])))


@commands.command()
@click.argument("group", type=click.Choice(["published", "ablation"]))
@click.option("--seeds", type=click.IntRange(2), default=10, show_default=True, help="How many.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="At once.")
def study(group: str, seeds: int, jobs: int) -> None:
    """Run each recipe of a GROUP in recipes.yaml over several seeds, and sum them up.

    Writes metrics/study.json (published) or metrics/ablation.json. What has run already, also
    before an interruption, is kept.
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


def describe_file(path: Path) -> dict[str, str]:
    """The size, inputs, outputs and metadata of an ONNX model, as readable text.

    Raises:
        MnistCnnError: there is no such file, or onnxruntime cannot read it.
    """
    # Costs 0.2 s to import, which `--help` need not wait for.
    import onnxruntime

    if not path.is_file():
        raise MnistCnnError(f"there is no file {path}; `make repro` makes models/mnist_cnn.onnx")
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's failures share no other base
        reason = str(error).rpartition(" : ")[2].strip()
        raise MnistCnnError(f"{path} is not a usable ONNX model: {reason}") from None
    described = {"file": f"{path}, {path.stat().st_size:,} bytes"}
    for role, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            described[f"{role} {value.name}"] = f"{value.type} {value.shape}"
    return described | dict(sorted(session.get_modelmeta().custom_metadata_map.items()))


def main() -> None:
    """Run the command line; failures that a user can mend end in one line."""
    with told_plainly("mnist-cnn"):
        commands()
