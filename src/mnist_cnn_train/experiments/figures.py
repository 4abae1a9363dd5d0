"""Plots of the experiments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mnist_cnn_train.evaluation.figures import BLUE, GRAY, hide_spines, save_figure


def plot_seeds(results: Mapping[str, Any], path: Path) -> None:
    """Plot the test accuracy of each recipe: each seed, and the mean with its 95 % interval.

    `results` is the result of `mnist_cnn_train.experiments.seeds.report` for the published recipes.
    """
    figure = Figure(figsize=(7, 1 + 0.5 * len(results)), layout="constrained")
    axes = figure.subplots()
    for place, found in enumerate(results.values()):
        accuracy = found["accuracy"]
        seeds = [100 * value for value in accuracy["seeds"].values()]
        center, low, high = (100 * accuracy[name] for name in ("mean", "low_95", "high_95"))
        axes.scatter(seeds, [place] * len(seeds), s=18, color=GRAY, alpha=0.5, linewidths=0)
        axes.errorbar(
            [center],
            [place],
            xerr=[[center - low], [high - center]],
            fmt="o",
            color=BLUE,
            capsize=4,
        )
        axes.annotate(
            f"{center:.2f} ± {100 * accuracy['std']:.2f} %",
            (center, place),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=BLUE,
        )
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.margins(y=0.3)
    axes.set_title(
        "Test accuracy (%): each seed, and the mean with its 95 % interval",
        loc="left",
        fontsize="medium",
    )
    hide_spines(axes)
    save_figure(figure, path)
