"""Generate the documentation's tables from the result files.

`python -m mnist_cnn_train.experiments.tables` rewrites everything between `<!-- table: NAME -->`
and `<!-- /table -->` in README.md, docs and the packaged model's card.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mnist_cnn.core.errors import MnistCnnError, exit_on_error
from mnist_cnn.core.files import read_json, sha256, write_bytes
from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn.onnxfile.model import DigitModel
from mnist_cnn_train.evaluation.metrics import wilson_interval
from mnist_cnn_train.evaluation.reader_suite import KINDS
from mnist_cnn_train.experiments.paths import (
    ABLATION,
    C_HEADER,
    CARD,
    GPU,
    PARETO,
    PICTURES,
    READER,
    READER_ABLATION,
    ROBUSTNESS,
    RUNTIMES,
    SEEDS,
)
from mnist_cnn_train.experiments.seeds import summarize
from mnist_cnn_train.model.networks import build
from mnist_cnn_train.pipeline.params import Model, changed, read_yaml
from mnist_cnn_train.pipeline.paths import ACCURACY, ONNX_METRICS, PARAMS, VALIDATION

BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
Row = Iterable[str]
MNIST_TEST_IMAGES = 10_000
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
    interval = _interval(test["accuracy_95_low"], test["accuracy_95_high"], 2)
    correct = _percent(test["accuracy_without_label_errors"], 2)
    yield "weights", "bytes", "test accuracy", "95 % CI", "without 15 wrong labels"
    for weights, *more in (("fp32", interval, correct), ("int8", "—", "—")):
        size, accuracy = onnx[weights]["bytes"], onnx[weights]["accuracy"]
        yield weights, f"{size:,}", _percent(accuracy, 2), *more


def _seeds() -> Iterator[Row]:
    yield "recipe", "parameters", "epochs", "seeds", "accuracy", "95 % CI", "NLL", "ECE"
    for recipe, found in (read_json(SEEDS) | {"reader": read_json(READER)["reader"]}).items():
        settings, accuracy = changed(read_yaml(PARAMS), found["changes"]), found["accuracy"]
        network = build(Model.model_validate(settings["model"]))
        yield (
            _name(recipe, found),
            f"{sum(parameter.numel() for parameter in network.parameters()):,}",
            f"{settings['train']['epochs']}",
            f"{len(accuracy['seeds'])}",
            _spread(accuracy, 2, percent=True),
            _interval(accuracy["low_95"], accuracy["high_95"], 2),
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


def _pareto() -> Iterator[Row]:
    yield "at most", "parameters", "network", "validation accuracy", "test accuracy"
    for limit, found in read_json(PARETO)["sizes"].items():
        chosen = found["chosen"]
        yield (
            f"{int(limit):,}",
            f"{found['parameters']:,}",
            f"`{chosen}`",
            _spread(found["tried"][chosen]["validation_accuracy"], 2, percent=True),
            _spread(found["accuracy"], 2, percent=True),
        )


def _gpu() -> Iterator[Row]:
    found = read_json(GPU)
    yield "machine", "epochs", "batch size", "seconds", "test accuracy"
    accuracy = summarize(found["accuracy"])
    yield (
        found["machine"],
        f"{found['recipe']['epochs']}",
        f"{found['recipe']['batch_size']}",
        _spread(summarize(found["seconds"]), 3),
        _spread(accuracy, 2, percent=True),
    )


def _reader() -> Iterator[Row]:
    report = read_json(READER)
    yield "", *(_name(recipe, found) for recipe, found in report.items())
    for words, metric, digits in (
        ("accuracy on the MNIST test images", "accuracy", 2),
        ("accuracy on digits of fonts not trained on", "held_out_font_accuracy", 2),
        ("accuracy on scikit-learn's 8x8 digits", "digits_8x8_accuracy", 2),
        ("error under corruptions not trained on", "held_out_corruption_error", 2),
    ):
        yield words, *(_spread(found[metric], digits, percent=True) for found in report.values())
    metric = "held_out_calibration_error"
    yield "ECE under those corruptions", *(_spread(one[metric], 3) for one in report.values())


def _non_digits() -> Iterator[Row]:
    report = read_json(READER)
    metrics = {"flagged": "flagged", "AUROC": "auroc", "FPR95": "fpr95"}
    columns = [(recipe, name) for name in metrics for recipe in report]
    yield "pictures of", *(f"{name}, `{recipe}`" for recipe, name in columns)
    for kind in KINDS:
        found = (report[recipe][f"{kind}_{metrics[name]}"] for recipe, name in columns)
        yield kind.replace("_", " "), *(_spread(one, 1, percent=True) for one in found)


def _reader_ablation() -> Iterator[Row]:
    columns = {
        "validation digits": "accuracy",
        "redrawn": "redrawn_accuracy",
        "of other fonts": "held_out_font_accuracy",
        "letters": "held_out_letters_flagged",
        "letters like digits": "held_out_letters_like_digits_flagged",
        "scribbles": "scribbles_flagged",
        "shapes": "shapes_flagged",
        "photographs": "pieces_of_a_photograph_flagged",
    }
    yield "recipe", *columns
    for variant, found in read_json(READER_ABLATION).items():
        digits = (2 if metric.endswith("accuracy") else 1 for metric in columns.values())
        yield (
            variant,
            *(
                _spread(found[metric], precision, percent=True)
                for metric, precision in zip(columns.values(), digits, strict=True)
            ),
        )


def _robustness() -> Iterator[Row]:
    flagged = ("flagged at severity 1", "flagged at severity 5")
    yield "corruptions", "mean error", "error of the most confident 80 %", *flagged, "ECE"
    report = read_json(ROBUSTNESS)
    for name, kind in (("trained on", "training"), ("held out", "held_out")):
        found = report[kind]
        rates = (found["mean_error"], found["risk_by_coverage"]["80%"], *found["warned"][::4])
        yield name, *(_percent(rate, 1) for rate in rates), f"{found['calibration_error']:.3f}"


def _pictures() -> Iterator[Row]:
    yield "picture", "same prediction", "correct", "95 % CI", "flagged"
    report = read_json(PICTURES)
    for name, found in report["pictures"].items():
        same, correct, flagged = (
            _percent(found[rate], 1) for rate in ("agreement", "accuracy", "flagged")
        )
        yield name, same, correct, _wilson(found["accuracy"], report["images"], 1), flagged


def _model() -> Iterator[Row]:
    properties = DigitModel(DEFAULT_MODEL).properties
    accuracy = float(properties["test_accuracy"])
    yield "file", f"`{DEFAULT_MODEL.name}`"
    yield "size", f"{DEFAULT_MODEL.stat().st_size:,} bytes"
    yield "SHA-256", f"`{sha256(DEFAULT_MODEL)}`"
    yield "recipe", "`reader`"
    yield "parameters", f"{int(properties['parameters']):,}"
    yield "accuracy on the MNIST test images", _percent(accuracy, 2)
    yield "95 % CI", _wilson(accuracy, MNIST_TEST_IMAGES, 2)
    yield "license", properties["license"]


def _model_accuracy() -> Iterator[Row]:
    yield from _of_the_model(
        {
            "accuracy on the MNIST test images": "accuracy",
            "accuracy on digits of fonts not trained on": "held_out_font_accuracy",
            "accuracy on scikit-learn's 8x8 digits": "digits_8x8_accuracy",
            "error under corruptions not trained on": "held_out_corruption_error",
        },
        2,
    )


def _model_rejection() -> Iterator[Row]:
    yield from _of_the_model({kind.replace("_", " "): f"{kind}_flagged" for kind in KINDS}, 1)


def _of_the_model(metrics: dict[str, str], digits: int) -> Iterator[Row]:
    """Yield each of `metrics`, by what it measures: for the packaged model, and over all seeds."""
    report = read_json(READER)["reader"]
    weights = DigitModel(DEFAULT_MODEL).properties["weights_sha256"]
    own = next((seed for seed, made in report["weights_sha256"].items() if made == weights), None)
    count = len(report["weights_sha256"])
    yield "measured", "this file", f"mean of {count} seeds", "95 % CI of the mean"
    for words, metric in metrics.items():
        found = report[metric]
        low, high = max(found["low_95"], 0), min(found["high_95"], 1)
        yield (
            words,
            "—" if own is None else _percent(found["seeds"][own], digits),
            _percent(found["mean"], digits),
            _interval(low, high, digits),
        )


def _wilson(rate: float, images: int, digits: int) -> str:
    return _interval(*wilson_interval(round(rate * images), images), digits)


def _interval(low: float, high: float, digits: int) -> str:
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f} %"


def _rows() -> Iterator[Row]:
    yield "rows of four digits", "read without any error"
    for name, rate in read_json(PICTURES)["rows"].items():
        yield name, _percent(rate, 1)


def _runtimes() -> Iterator[Row]:
    report = read_json(RUNTIMES)
    batch = f"images/s, batches of {report['batch']}"
    yield "file", "runtime", "version", "same class", "probabilities differ by", "one image", batch
    for file, results in report["files"].items():
        for runtime, found in results["runtimes"].items():
            yield (
                file,
                runtime,
                report["versions"][runtime],
                f"{found['same_classes']} of {report['images']}",
                f"{found['largest_difference']:.0e}" if found["largest_difference"] else "0",
                f"{found['microseconds']:,.0f} µs",
                f"{found['images_per_second']:,}",
            )


def _c_header() -> Iterator[Row]:
    report = read_json(C_HEADER)
    yield "`model.architecture`", *(f"`{architecture}`" for architecture in report)
    for words, name in (
        ("accuracy on the 10,000 test images", "accuracy"),
        ("the same in floats, by PyTorch", "accuracy_pytorch"),
        ("same class as PyTorch", "agreement_pytorch"),
        ("same class as `mnist_cnn.int8.onnx`", "agreement_int8_onnx"),
    ):
        yield words, *(_percent(found[name], 2) for found in report.values())
    for words, target, name in (
        ("flash, Cortex-M0", "Cortex-M0", "flash"),
        ("flash, RV32EC, which has no multiplication", "RV32EC", "flash"),
        ("static RAM, without the image", "Cortex-M0", "ram"),
        ("stack, Cortex-M0", "Cortex-M0", "stack"),
    ):
        yield words, *(f"{found['sizes'][target][name]:,} bytes" for found in report.values())
    for level in ("-Os", "-O2"):
        counts = (found["x86_64_instructions"][level] / 1e6 for found in report.values())
        yield f"x86-64 instructions per image, `{level}`", *(f"{one:.1f} million" for one in counts)


def _percent(rate: float, digits: int) -> str:
    return f"{100 * rate:.{digits}f} %"


def _spread(found: dict[str, Any] | None, digits: int, percent: bool = False) -> str:
    if not found:
        return "—"
    mean, std = (found[name] * (100 if percent else 1) for name in ("mean", "std"))
    return f"{mean:.{digits}f} ± {std:.{digits}f}{' %' if percent else ''}"


ALL = (
    *(_accuracy, _seeds, _ablation, _pareto, _gpu, _reader, _reader_ablation),
    *(_robustness, _pictures, _rows, _non_digits, _runtimes, _c_header),
    *(_model, _model_accuracy, _model_rejection),
)
TABLES = {table.__name__.removeprefix("_"): table for table in ALL}


def main() -> None:
    """Rewrite the tables in README.md, docs and the packaged model's card."""
    with exit_on_error("tables"):
        for path in (Path("README.md"), CARD, *sorted(Path("docs").glob("*.md"))):
            before = path.read_text(encoding="utf-8")
            if (after := with_tables(before)) != before:
                write_bytes(path, after.encode())
                print(f"{path}: tables rewritten")


if __name__ == "__main__":
    main()
