"""Plots of the picture suite and the corruption suite."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from mnist_cnn_train.evaluation.figures import BLUE, GRAY, hide_spines, save_figure, shorten

if TYPE_CHECKING:
    from mnist_cnn.reader.recognizer import Prediction
    from mnist_cnn_train.evaluation.fooled import Fooled


def plot_pictures(
    examples: Mapping[str, Sequence["tuple[npt.NDArray[np.uint8], Prediction]"]], path: Path
) -> None:
    """Plot pictures of each kind above the network's input and prediction.

    A question mark means a warning.
    """
    columns = max(map(len, examples.values()))
    figure = Figure(figsize=(1.0 * columns, 2.35 * len(examples)), layout="constrained")
    parts = figure.subfigures(len(examples), 1, squeeze=False)[:, 0]
    for part, (name, pictures) in zip(parts, examples.items(), strict=True):
        part.suptitle(name, fontsize="medium", x=0.01, ha="left")
        grid = part.subplots(2, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for (above, below), (gray, prediction) in zip(grid.T, pictures, strict=False):
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
    figure = Figure(figsize=(1.5 * len(examples), 1.9 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, len(examples), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for column, (kind, fooled) in zip(grid.T, examples.items(), strict=True):
        column[0].set_title(kind, fontsize="medium")
        for axes, one in zip(column, fooled, strict=False):
            axes.imshow(one.gray, cmap="gray", vmin=0, vmax=255)
            axes.set(adjustable="datalim", box_aspect=1)
            for left, role, found in ((0.0, "MNIST", one.plain), (0.55, "reader", one.reader)):
                doubt = "?" if found.warning else ""
                correct = bool(doubt) if one.truth is None else found.label == one.truth
                text = f"{role}: {shorten(found.label or 'no ink')}{doubt}"
                color, place = BLUE if correct else GRAY, axes.transAxes
                axes.text(left, -0.14, text, color=color, fontsize="x-small", transform=place)
    save_figure(figure, path)


def plot_robustness(
    report: Mapping[str, Any],
    examples: Mapping[str, Mapping[str, Sequence[npt.NDArray[np.uint8]]]],
    path: Path,
) -> None:
    """Plot an example and the accuracy for each corruption and severity, and risk by coverage.

    `report` and `examples` come from `evaluate_corruptions` and `corruption_suite.examples`.
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
    for group, color in zip(examples, (GRAY, BLUE), strict=False):
        risks = report[group]["risk_by_coverage"]
        axes.plot(
            range(10, 101, 10),
            [100 * risk for risk in risks.values()],
            "o-",
            color=color,
            label=group.replace("_", " "),
        )
    axes.set(xlabel="the surest … % of all readings", ylabel="errors among them (%)")
    axes.legend(frameon=False)
    hide_spines(axes)
    save_figure(figure, path)
