"""Pictures for people: training curves, the reliability diagram, the digits read wrongly.

Drawn without pyplot, hence without a display, and without the date and the version that
would make each file differ.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from mnist_cnn.artifacts import replacing
from mnist_cnn.digits import LABELS, Digits
from mnist_cnn.evaluation import Evaluation, expected_calibration_error, wilson_interval

if TYPE_CHECKING:
    from mnist_cnn.recognizer import Reading

BLUE, GREY = "#2563a8", "#8a8a8a"

GALLERY = 96  # digits; more would not be looked at
LONGEST_NAME = 9  # letters of a class that fit above an image, with a probability behind


def draw_curves(history: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw losses and validation error by epoch; `history` has the columns of the training log."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    epochs = history["epoch"]
    for column, color, label in (
        ("train_loss", GREY, "training images, as distorted"),
        ("validation_loss", BLUE, "validation images, averaged weights"),
    ):
        losses.plot(epochs, history[column], color=color, marker=".", label=label)
    losses.legend(frameon=False)
    rates = [100 * (1 - accuracy) for accuracy in history["validation_accuracy"]]
    end = ": no image held out" if math.isnan(rates[-1]) else f", {rates[-1]:.2f} in the end"
    errors.plot(epochs, rates, color=BLUE, marker=".")
    for axes, title in (
        (losses, "Cross-entropy (nats)"),
        (errors, f"Validation error (%){end}"),
    ):
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_xlabel("epoch")
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _bare(axes)
    _save(figure, path)


def draw_reliability(evaluation: Evaluation, path: Path) -> None:
    """Draw accuracy against confidence, with 95 % intervals, over the images in each bin."""
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins = [bin for bin in evaluation.calibration if bin.images]
    accuracy = [bin.accuracy for bin in bins]
    intervals = [wilson_interval(round(bin.accuracy * bin.images), bin.images) for bin in bins]
    diagram.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    diagram.errorbar(
        [bin.confidence for bin in bins],
        accuracy,
        yerr=[
            [max(0.0, value - low) for value, (low, _) in zip(accuracy, intervals, strict=True)],
            [max(0.0, high - value) for value, (_, high) in zip(accuracy, intervals, strict=True)],
        ],
        color=BLUE,
        marker="o",
        linestyle="none",
        capsize=2,
        label="this model, 95 % interval",
    )
    error = expected_calibration_error(evaluation.calibration)
    diagram.set_title(
        f"Reliability (expected calibration error {error:.4f})", loc="left", fontsize="medium"
    )
    diagram.set_ylabel("accuracy")
    diagram.legend(frameon=False, loc="lower right")
    counts.bar(
        [bin.low for bin in bins],
        [bin.images for bin in bins],
        width=[bin.high - bin.low for bin in bins],
        align="edge",
        color=BLUE,
        edgecolor="white",
    )
    counts.set(yscale="log", ylabel="images", xlabel="confidence", xlim=(0, 1))
    for axes in (diagram, counts):
        _bare(axes)
    _save(figure, path)


def draw_misclassified(evaluation: Evaluation, digits: Digits, path: Path) -> None:
    """Draw the digits that are read wrongly, the surest mistakes first, `GALLERY` at most."""
    wrong = np.flatnonzero(~evaluation.correct)
    wrong = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")]
    shown = wrong[:GALLERY]
    columns = 12
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(columns, 1.15 * rows + 0.4), layout="constrained")
    things = "digits" if digits.names == LABELS else "images"
    title = f"{len(wrong)} of {len(digits):,} test {things} are read wrongly"
    if len(shown) < len(wrong):
        title += f"; the {len(shown)} surest mistakes"
    figure.suptitle(f"{title}: label → prediction (its probability)", fontsize="medium")
    gap = "\n" if max(map(len, digits.names)) > 2 else " "  # long names take two lines
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, index in zip(figure.axes, shown, strict=False):
        axes.imshow(digits.images[index], cmap="gray_r", vmin=0, vmax=255)
        actual, predicted = (
            _short(digits.names[of[index]]) for of in (evaluation.labels, evaluation.predicted)
        )
        axes.set_title(
            f"{actual} →{gap}{predicted} ({evaluation.confidence[index]:.2f})",
            fontsize="small",
            pad=2,
            parse_math=False,  # a name may hold dollar signs
        )
    _save(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def draw_pictures(
    examples: Mapping[str, Sequence["tuple[npt.NDArray[np.uint8], Reading]"]], path: Path
) -> None:
    """Draw pictures of each kind above what the network saw of them, and what was read.

    A label with a warning has a question mark.
    """
    columns = max(map(len, examples.values()))
    figure = Figure(figsize=(1.0 * columns, 2.35 * len(examples)), layout="constrained")
    parts = figure.subfigures(len(examples), 1, squeeze=False)[:, 0]
    for part, (name, pictures) in zip(parts, examples.items(), strict=True):
        part.suptitle(name, fontsize="medium", x=0.01, ha="left")
        grid = part.subplots(2, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for (above, below), (grey, reading) in zip(grid.T, pictures, strict=False):
            above.imshow(grey, cmap="gray", vmin=0, vmax=255)
            if reading.image is not None:
                below.imshow(reading.image, cmap="gray", vmin=0, vmax=255)
            doubt = "?" if reading.warning else ""
            read = f"{_short(reading.label)}{doubt}" if reading.label else "no ink"
            below.set_title(read, fontsize="small", pad=2, parse_math=False)
    _save(figure, path)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def draw_study(study: Mapping[str, Any], path: Path) -> None:
    """Draw the test accuracy of each recipe: every seed, their mean, its 95 % interval.

    `study` is what `mnist_cnn.study.report` gives for the published recipes.
    """
    figure = Figure(figsize=(7, 1 + 0.5 * len(study)), layout="constrained")
    axes = figure.subplots()
    for place, found in enumerate(study.values()):
        accuracy = found["accuracy"]
        seeds = [100 * value for value in accuracy["seeds"].values()]
        centre, low, high = (100 * accuracy[name] for name in ("mean", "low_95", "high_95"))
        axes.scatter(seeds, [place] * len(seeds), s=18, color=GREY, alpha=0.5, linewidths=0)
        axes.errorbar(
            [centre],
            [place],
            xerr=[[centre - low], [high - centre]],
            fmt="o",
            color=BLUE,
            capsize=4,
        )
        axes.annotate(
            f"{centre:.2f} ± {100 * accuracy['std']:.2f} %",
            (centre, place),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=BLUE,
        )
    axes.set_yticks(range(len(study)), list(study))
    axes.invert_yaxis()
    axes.margins(y=0.3)
    axes.set_title(
        "Test accuracy (%): each seed, and the mean with its 95 % interval",
        loc="left",
        fontsize="medium",
    )
    _bare(axes)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})


def draw_robustness(
    report: Mapping[str, Any],
    examples: Mapping[str, Mapping[str, Sequence["npt.NDArray[np.uint8]"]]],
    path: Path,
) -> None:
    """Draw each corruption by severity with the accuracy there, and the risk by coverage.

    `report` is what `mnist_cnn.robustness.judge` gives, `examples` one image for each of its cells.
    """
    rows = max(map(len, examples.values()))
    figure = Figure(figsize=(11, 0.72 * rows + 3.2), layout="constrained")
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[0.72 * rows + 0.4, 2.8])
    above, below = parts[:, 0]
    blocks = above.subfigures(1, len(examples), squeeze=False)[0]
    for block, (group, corruptions) in zip(blocks, examples.items(), strict=True):
        error = report[group]["mean_error"]
        block.suptitle(
            f"{group.replace('_', ' ')}: mean error {100 * error:.1f} %", fontsize="medium"
        )
        columns = len(next(iter(corruptions.values())))
        for axes in (grid := block.subplots(rows, columns)).flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for line, (name, images) in zip(grid, corruptions.items(), strict=False):
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
            for axes, image, accuracy in zip(
                line, images, report[group]["accuracy"][name], strict=True
            ):
                axes.imshow(image, cmap="gray", vmin=0, vmax=255)
                axes.set_title(f"{100 * accuracy:.1f}", fontsize="small", pad=2)
    axes = below.subplots()
    for group, colour in zip(examples, (GREY, BLUE), strict=False):
        risks = report[group]["risk_by_coverage"]
        axes.plot(
            range(10, 101, 10),
            [100 * risk for risk in risks.values()],
            "o-",
            color=colour,
            label=group.replace("_", " "),
        )
    axes.set(xlabel="the surest … % of all readings", ylabel="errors among them (%)")
    axes.legend(frameon=False)
    _bare(axes)
    _save(figure, path)
