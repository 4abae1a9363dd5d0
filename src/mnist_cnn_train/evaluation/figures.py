"""Plots of training curves, reliability and misclassified digits.

Drawn without pyplot, so no display is needed, and saved without the date and version, so that the
same figure gives the same bytes.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from mnist_cnn.core.files import replacing
from mnist_cnn.core.mnist import LABELS
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.metrics import (
    Evaluation,
    expected_calibration_error,
    wilson_interval,
)

BLUE, GRAY = "#2563a8", "#8a8a8a"
WIDTH = 7.3  # inches, 803 pixels: as wide as GitHub shows a page
GALLERY = 64  # most digits to show: a screen of them
GALLERY_COLUMNS = 8
MAX_NAME_LENGTH = 9  # characters that fit above an image, together with a probability


def plot_curves(history: Mapping[str, Sequence[float]], path: Path) -> None:
    """Plot losses and validation error by epoch; `history` has the training log's columns."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    losses, errors = figure.subplots(1, 2)
    epochs = history["epoch"]
    for column, color, label in (
        ("train_loss", GRAY, "training images, augmented"),
        ("validation_loss", BLUE, "validation images, EMA weights"),
    ):
        losses.plot(epochs, history[column], color=color, marker=".", label=label)
    losses.legend(frameon=False, fontsize="small")
    rates = [100 * (1 - accuracy) for accuracy in history["validation_accuracy"]]
    end = ": no image held out" if math.isnan(rates[-1]) else f", {rates[-1]:.2f} in the last epoch"
    errors.plot(epochs, rates, color=BLUE, marker=".")
    for axes, title in (
        (losses, "Cross-entropy (nats)"),
        (errors, f"Validation error (%){end}"),
    ):
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_xlabel("epoch")
        if axes is losses or max(rates) > 0:
            _use_log_axis(axes)
        else:
            axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        hide_spines(axes)
    save_figure(figure, path)


def _use_log_axis(axes: Axes) -> None:
    """Make the y axis logarithmic, with ticks at 1, 2 and 5; zeros fall below its end."""
    axes.set_yscale("log", nonpositive="clip")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_locator(NullLocator())


def plot_reliability(evaluation: Evaluation, path: Path) -> None:
    """Plot accuracy against confidence, with 95 % intervals, above the image count of each bin."""
    figure = Figure(figsize=(WIDTH, 5.5), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins = [bin for bin in evaluation.calibration if bin.images]
    accuracy = [bin.accuracy for bin in bins]
    intervals = [wilson_interval(round(bin.accuracy * bin.images), bin.images) for bin in bins]
    diagram.plot([0, 1], [0, 1], color=GRAY, linestyle=":", label="perfectly calibrated")
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
        clip_on=False,  # a point at 1 is whole
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
    counts.set_ylim(bottom=0.7)  # a bin of one image has a bar, too
    counts.yaxis.set_major_formatter("{x:,g}")
    for axes in (diagram, counts):
        hide_spines(axes)
    save_figure(figure, path)


def plot_misclassified(evaluation: Evaluation, digits: Dataset, path: Path) -> None:
    """Plot at most `GALLERY` misclassified digits, the most confident mistakes first."""
    wrong = np.flatnonzero(~evaluation.correct)
    wrong = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")]
    shown = wrong[:GALLERY]
    rows = -(-len(shown) // GALLERY_COLUMNS)
    figure = Figure(figsize=(WIDTH, 1.05 * rows + 0.6), layout="constrained")
    things = "digits" if digits.names == LABELS else "images"
    title = f"{len(wrong):,} of {len(digits):,} test {things} are misclassified"
    if len(shown) < len(wrong):
        title += f"; the {len(shown)} surest"
    if rows:
        title += ": label → prediction (its probability)"
    figure.suptitle(title, fontsize="medium")
    long = max(map(len, digits.names)) > 2
    gap, size = ("\n", "x-small") if long else (" ", "small")  # long names take two lines
    for place, index in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, GALLERY_COLUMNS, place)
        axes.axis("off")
        axes.imshow(digits.images[index], cmap="gray_r", vmin=0, vmax=255)
        actual, predicted = (
            shorten(digits.names[of[index]]) for of in (evaluation.labels, evaluation.predicted)
        )
        axes.set_title(
            f"{actual} →{gap}{predicted} ({evaluation.confidence[index]:.2f})",
            fontsize=size,
            pad=2,
            parse_math=False,  # names may contain dollar signs
        )
    save_figure(figure, path)


def shorten(name: str) -> str:
    """Shorten a class name to fit above an image."""
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def hide_spines(axes: Axes) -> None:
    """Hide the top and right spines."""
    axes.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically, with the same bytes each time."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
