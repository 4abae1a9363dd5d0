"""Plots of the picture suite and the corruption suite."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure, SubFigure

from mnist_cnn_train.evaluation.figures import (
    BLUE,
    GRAY,
    WIDTH,
    hide_spines,
    save_figure,
    shorten,
)

if TYPE_CHECKING:
    from mnist_cnn.reader.recognizer import Prediction
    from mnist_cnn_train.evaluation.fooled import Fooled


GROUP_NAMES = {"training": "trained on", "held_out": "held out"}


def plot_pictures(
    examples: Mapping[str, Sequence["tuple[npt.NDArray[np.uint8], Prediction]"]], path: Path
) -> None:
    """Plot pictures of each kind above the network's input and prediction, in two columns of kinds.

    A question mark means a warning.
    """
    rows = -(-len(examples) // 2)
    figure = Figure(figsize=(WIDTH, 1.13 * rows), layout="constrained")
    parts = figure.subfigures(rows, 2, squeeze=False).T.flat
    for part, (name, pictures) in zip(parts, examples.items(), strict=False):
        part.suptitle(name, fontsize="small", x=0.01, ha="left")
        grid = part.subplots(2, len(pictures), squeeze=False, gridspec_kw={"hspace": 0})
        for axes in grid.flat:
            axes.axis("off")
        for (above, below), (gray, prediction) in zip(grid.T, pictures, strict=True):
            above.imshow(gray, cmap="gray", vmin=0, vmax=255)
            if prediction.image is not None:
                below.imshow(prediction.image, cmap="gray", vmin=0, vmax=255)
            doubt = "?" if prediction.warning else ""
            read = f"{shorten(prediction.label)}{doubt}" if prediction.label else "no ink"
            below.set_title(read, fontsize="small", pad=2, parse_math=False)
    save_figure(figure, path)


def plot_fooled(examples: Mapping[str, Sequence["Fooled"]], path: Path) -> None:
    """Plot each kind as a column of pictures, with the answers of both networks below.

    A question mark means a warning; wrong answers are gray.
    """
    rows = max(map(len, examples.values()))
    figure = Figure(figsize=(WIDTH, 1.36 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, len(examples), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for column, (kind, fooled) in zip(grid.T, examples.items(), strict=True):
        column[0].set_title(kind, fontsize="small")
        for axes, one in zip(column, fooled, strict=False):
            axes.imshow(one.gray, cmap="gray", vmin=0, vmax=255)
            axes.set(adjustable="datalim", box_aspect=1)
            for height, role, found in ((-0.05, "MNIST", one.plain), (-0.2, "reader", one.reader)):
                doubt = "?" if found.warning else ""
                correct = bool(doubt) if one.truth is None else found.label == one.truth
                text = f"{role}: {shorten(found.label or 'no ink')}{doubt}"
                look = {"color": BLUE if correct else GRAY, "fontsize": "small", "va": "top"}
                axes.text(0, height, text, transform=axes.transAxes, **look)
    save_figure(figure, path)


def plot_robustness(
    report: Mapping[str, Any],
    examples: Mapping[str, Mapping[str, Sequence[npt.NDArray[np.uint8]]]],
    path: Path,
) -> None:
    """Plot an example and the accuracy for each corruption and severity, and risk by coverage.

    `report` and `examples` come from `evaluate_corruptions` and `corruption_suite.examples`.
    """
    first, second = examples
    rows, beside = len(examples[first]), len(examples[second])
    figure = Figure(figsize=(WIDTH, 0.36 * rows + 0.7), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    heights = [beside + 1.2, rows - beside]
    above, below = right.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, group in ((left, first), (above, second)):
        _plot_corruptions(part, group, report[group], examples[group])
    axes = below.subplots()
    for group, color in ((first, GRAY), (second, BLUE)):
        risks = [100 * risk for risk in report[group]["risk_by_coverage"].values()]
        axes.plot(range(10, 101, 10), risks, "o-", color=color, label=GROUP_NAMES[group])
    axes.set(xlabel="the most confident … % of all predictions", ylabel="error among them (%)")
    axes.legend(frameon=False)
    hide_spines(axes)
    save_figure(figure, path)


def _plot_corruptions(
    part: SubFigure,
    group: str,
    report: Mapping[str, Any],
    corruptions: Mapping[str, Sequence[npt.NDArray[np.uint8]]],
) -> None:
    """Plot a row per corruption: its name, and by severity an image with the accuracy beside it."""
    error = f"mean error {100 * report['mean_error']:.1f} %"
    part.suptitle(f"{GROUP_NAMES[group].capitalize()}: accuracy (%), {error}", fontsize="medium")
    severities = len(next(iter(corruptions.values())))
    grid = part.subplots(len(corruptions), severities, squeeze=False)
    for severity, axes in enumerate(grid[0], start=1):
        axes.set_title(f"{severity}", fontsize="small", pad=3)
    corner = {"transform": grid[0, 0].transAxes, "ha": "right", "fontsize": "small"}
    grid[0, 0].text(-0.15, 1.1, "severity", **corner)
    for line, (name, images) in zip(grid, corruptions.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
        for axes, image, accuracy in zip(line, images, report["accuracy"][name], strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[], anchor="W")
            axes.spines[:].set_visible(False)
            place = {"transform": axes.transAxes, "va": "center"}
            axes.text(1.06, 0.5, f"{100 * accuracy:.1f}", fontsize="x-small", **place)
