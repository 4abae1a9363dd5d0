"""Charts of the experiments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mnist_cnn_train.evaluation.figures import BLUE, GREY, _bare, _save


def draw_study(study: Mapping[str, Any], path: Path) -> None:
    """Draw the test accuracy of each recipe: every seed, their mean, its 95 % interval.

    `study` is what `mnist_cnn_train.experiments.seeds.report` gives for the published recipes.
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
