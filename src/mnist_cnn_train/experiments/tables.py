"""Generate the documentation's tables from the result files.

`python -m mnist_cnn_train.experiments.tables` rewrites everything between `<!-- table: NAME -->`
and `<!-- /table -->` in README.md and docs.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mnist_cnn.core.errors import MnistCnnError, exit_on_error
from mnist_cnn.core.files import read_json, write_bytes
from mnist_cnn_train.experiments.paths import ABLATION, PICTURES, ROBUST, ROBUSTNESS, SEEDS
from mnist_cnn_train.model.networks import ARCHITECTURES
from mnist_cnn_train.pipeline.params import changed, read_yaml
from mnist_cnn_train.pipeline.paths import ACCURACY, ONNX_METRICS, PARAMS, VALIDATION

BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
Row = Iterable[str]
NOTE = (
    "† Measured with an earlier version of the training code, whose weights differ by rounding;\n"
    "`python -m mnist_cnn_train seeds GROUP` measures it again."
)


def with_tables(text: str) -> str:
    """Return `text` with each table regenerated from the results in the current folder.

    Raises:
        MnistCnnError: if a table's name is unknown, or a result file is missing.
    """
    return BLOCK.sub(lambda found: f"{found[1]}\n{_table(found[2])}\n{found[3]}", text)


def _table(name: str) -> str:
    if name not in TABLES:
        raise MnistCnnError(f"there is no table {name!r}; known: {', '.join(TABLES)}")
    header, *rows = map(list, TABLES[name]())
    lines = (header, ["---"] * len(header), *rows)
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{text}\n{NOTE}\n" if "†" in text else text


def _name(recipe: str, found: dict[str, Any]) -> str:
    """Format the recipe's name, marked if the pipeline's weights have changed since `found`."""
    current = found.get("pipeline_weights_sha256") == read_json(VALIDATION)["weights_sha256"]
    return f"`{recipe}`{'' if current else ' †'}"


def _accuracy() -> Iterator[Row]:
    test, onnx = read_json(ACCURACY), read_json(ONNX_METRICS)
    interval = f"{100 * test['accuracy_95_low']:.2f}–{100 * test['accuracy_95_high']:.2f} %"
    yield "weights", "bytes", "test accuracy", "95 % CI"
    for weights, bounds in {"fp32": interval, "int8": "—"}.items():
        size, accuracy = onnx[weights]["bytes"], onnx[weights]["accuracy"]
        yield weights, f"{size:,}", _percent(accuracy, 2), bounds


def _seeds() -> Iterator[Row]:
    yield "recipe", "parameters", "epochs", "seeds", "accuracy", "95 % CI", "NLL", "ECE"
    for recipe, found in (read_json(SEEDS) | read_json(ROBUST)).items():
        settings, accuracy = changed(read_yaml(PARAMS), found["changes"]), found["accuracy"]
        network = ARCHITECTURES[settings["model"]["architecture"]]()
        yield (
            _name(recipe, found),
            f"{sum(parameter.numel() for parameter in network.parameters()):,}",
            f"{settings['train']['epochs']}",
            f"{len(accuracy['seeds'])}",
            _spread(accuracy, 2, percent=True),
            f"{100 * accuracy['low_95']:.2f}–{100 * accuracy['high_95']:.2f} %",
            _spread(found.get("negative_log_likelihood"), 4),
            _spread(found.get("calibration_error"), 4),
        )


def _ablation() -> Iterator[Row]:
    yield "recipe", "change from the default", "validation accuracy", "validation loss (nats)"
    for recipe, found in read_json(ABLATION).items():
        changes = ", ".join(f"`{key}: {value}`" for key, value in found["changes"].items())
        accuracy = _spread(found["validation_accuracy"], 2, percent=True)
        yield (
            _name(recipe, found),
            changes or "none",
            accuracy,
            _spread(found["validation_loss"], 4),
        )


def _robust() -> Iterator[Row]:
    yield "recipe", "accuracy, clean", "error, trained on", "error, held out", "ECE, held out"
    for recipe, found in read_json(ROBUST).items():
        errors = (found["corruption_error"], found["held_out_corruption_error"])
        percents = (_spread(one, 2, percent=True) for one in (found["accuracy"], *errors))
        yield _name(recipe, found), *percents, _spread(found["held_out_calibration_error"], 3)


def _robustness() -> Iterator[Row]:
    flagged = ("flagged at severity 1", "flagged at severity 5")
    yield "corruptions", "mean error", "error of the most confident 80 %", *flagged, "ECE"
    report = read_json(ROBUSTNESS)
    for name, kind in (("trained on", "training"), ("held out", "held_out")):
        found = report[kind]
        rates = (found["mean_error"], found["risk_by_coverage"]["80%"], *found["warned"][::4])
        yield name, *(_percent(rate, 1) for rate in rates), f"{found['calibration_error']:.3f}"


def _pictures() -> Iterator[Row]:
    yield "picture", "same prediction", "correct", "flagged"
    for name, found in read_json(PICTURES)["disguises"].items():
        yield name, *(_percent(found[rate], 1) for rate in ("agreement", "accuracy", "flagged"))


def _non_digits() -> Iterator[Row]:
    yield "picture", "flagged"
    for name, rate in read_json(PICTURES)["caught"].items():
        yield name, _percent(rate, 1)


def _percent(rate: float, digits: int) -> str:
    return f"{100 * rate:.{digits}f} %"


def _spread(found: dict[str, Any] | None, digits: int, percent: bool = False) -> str:
    if not found:
        return "—"
    mean, std = (found[name] * (100 if percent else 1) for name in ("mean", "std"))
    return f"{mean:.{digits}f} ± {std:.{digits}f}{' %' if percent else ''}"


ALL = (_accuracy, _seeds, _ablation, _robust, _robustness, _pictures, _non_digits)
TABLES = {table.__name__.removeprefix("_"): table for table in ALL}


def main() -> None:
    """Rewrite the tables in README.md and docs."""
    with exit_on_error("tables"):
        for path in (Path("README.md"), *sorted(Path("docs").glob("*.md"))):
            before = path.read_text(encoding="utf-8")
            if (after := with_tables(before)) != before:
                write_bytes(path, after.encode())
                print(f"{path}: tables rewritten")


if __name__ == "__main__":
    main()
