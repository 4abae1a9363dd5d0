"""Plots of the experiments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

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


def plot_pareto(sizes: Mapping[str, Any], path: Path) -> None:
    """Plot test accuracy by number of parameters: each seed, and the means.

    `sizes` are the networks that `benchmarks/pareto.py` reports, by their limit of parameters.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    parameters = [found["parameters"] for found in sizes.values()]
    for count, found in zip(parameters, sizes.values(), strict=True):
        errors = [100 * (1 - value) for value in found["accuracy"]["seeds"].values()]
        axes.scatter([count] * len(errors), errors, s=18, color=GRAY, alpha=0.5, linewidths=0)
    means = [100 * (1 - found["accuracy"]["mean"]) for found in sizes.values()]
    axes.plot(parameters, means, "o-", color=BLUE)
    for count, mean in zip(parameters, means, strict=True):
        axes.annotate(
            f"{100 - mean:.2f} %",
            (count, mean),
            xytext=(6, 6),
            textcoords="offset points",
            color=BLUE,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes_shown, errors_shown = (700, 1_000, 2_000, 5_000, 10_000), (0.4, 0.5, 0.7, 1, 1.5, 2, 3)
    for axis, ticks in ((axes.xaxis, sizes_shown), (axes.yaxis, errors_shown)):
        axis.set_minor_locator(NullLocator())
        axis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("parameters")
    axes.set_title("Test error (%): each seed, and the means", loc="left", fontsize="medium")
    hide_spines(axes)
    save_figure(figure, path)
