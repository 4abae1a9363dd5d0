"""Every benchmark, side by side on one machine; writes results.md and results.png beside it."""

import argparse
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

import matplotlib.pyplot as plt
import profile_training
import time_pipeline
import time_training
import torch
from ours import speed
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mnist_cnn.core.errors import exit_on_error
from mnist_cnn.core.files import replacing, write_bytes
from mnist_cnn_train.data.catalog import TRAINING_IMAGES
from mnist_cnn_train.evaluation.figures import BLUE, hide_spines
from mnist_cnn_train.model.networks import build
from mnist_cnn_train.training.sampling import epoch_sizes

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Work:
    """Multiply-adds for one image."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Measured:
    """All that was measured."""

    training: list[time_training.Result]
    images: int  # that one training of ours reads
    trained: Work  # of the network that ours trains
    operations: list[profile_training.Operation]
    peaks: dict[int, float]  # by threads
    commands: list[time_pipeline.Command]
    stages: list[time_pipeline.Stage]


def count_work(network: nn.Module) -> Work:
    """What torch counts; one multiply-add is two of its operations."""
    images = 4
    with FlopCounterMode(display=False) as forward:
        logits = network(torch.zeros(images, 1, 28, 28))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    counts = [counted.get_total_flops() // (2 * images) for counted in (forward, backward)]
    return Work(*counts)


def peak(threads: int) -> float:
    """Multiply-adds a second, in 10^9, of a product of two large fp32 matrices; best of 10."""
    torch.set_num_threads(threads)
    size = 2048
    left, right = torch.rand(size, size), torch.rand(size, size)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return size**3 / min(times) / 1e9


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="for training (default 2)")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: should be at least 2, or there is no spread")
    recipe = speed(seed=0, threads=options.threads)
    measured = Measured(
        commands=time_pipeline.measure_commands(options.rounds),
        stages=time_pipeline.measure_stages(),
        peaks={threads: peak(threads) for threads in sorted({1, options.threads})},
        operations=profile_training.measure(),
        training=time_training.measure(options.rounds, options.threads),
        images=sum(epoch_sizes(TRAINING_IMAGES["mnist"], recipe.train)),
        trained=count_work(build(recipe.model)),
    )
    text = report(measured, options.rounds, options.threads)
    write_bytes(HERE / "results.md", text.encode())
    draw(measured.training)
    print(text)


def table(header: list[str], rows: list[list[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(found: Measured, rounds: int, threads: int) -> str:
    """The results as Markdown."""
    return f"""# Benchmarks

Made by `make bench` on {platform.machine()} with {os.cpu_count()} cores, torch {torch.__version__},
in {rounds} rounds in which all contenders take turns: median, and from least to most.
Ratios carry over to other machines better than seconds.

## Training to 99 % of the test images, on {threads} threads

{training_table(found.training)}

Ours is the recipe `speed`, whose epochs were fixed beforehand. A baseline has the epochs after
which its mean accuracy first is 99 % or more: chosen on the test images, in its favor. The
ratio is that of the medians.

## How much of the machine that is

A product of two matrices of 2048 x 2048 in fp32 reaches {
        ", ".join(f"{rate:.0f} on {count}" for count, rate in found.peaks.items())
    } thread(s), in 10⁹ multiply-adds a second. An image
takes {found.trained.forward:,} forward and {found.trained.backward:,} backward in our training.

{share_table(found, threads)}

Where the time of training goes, on one thread under torch's profiler:

{operation_table(found.operations)}

## The pipeline

{command_table(found.commands)}

Each stage alone, without DVC; the start is Python and all imports, before any work.

{stage_table(found.stages)}
"""


def training_table(training: list[time_training.Result]) -> str:
    """Who takes how long to 99 %."""
    ours = median(training[0].seconds)
    rows: list[list[object]] = []
    for found in training:
        seconds = median(found.seconds)
        rows.append(
            [
                found.name,
                found.epochs if found.reached else f"{found.epochs}, not reached",
                f"{100 * mean(found.accuracy):.2f} ± {100 * stdev(found.accuracy):.2f} %",
                f"{seconds:.1f} s",
                f"{min(found.seconds):.1f} to {max(found.seconds):.1f} s",
                f"{seconds / ours:.1f}",
            ]
        )
    return table(["", "epochs", "accuracy", "training", "range", "ratio"], rows)


def share_table(found: Measured, threads: int) -> str:
    """Which part of the matrix product's speed training reaches."""
    work = found.trained.forward + found.trained.backward
    rate = found.images * work / median(found.training[0].seconds) / 1e9
    row: list[object] = [f"training, {threads} threads", f"{rate:.1f}"]
    return table(
        ["", "10⁹ multiply-adds a second", "of the product's"],
        [[*row, f"{rate / found.peaks[threads]:.0%}"]],
    )


def operation_table(operations: list[profile_training.Operation]) -> str:
    """Shares of training, the largest first."""
    ranked = sorted(operations, key=lambda operation: -operation.share)
    return table(["", "of the time"], [[o.name, f"{o.share:.1%}"] for o in ranked])


def command_table(commands: list[time_pipeline.Command]) -> str:
    """Seconds of short commands."""
    first = commands[0].seconds
    rows: list[list[object]] = [
        [c.name, f"{c.seconds:.2f} s", f"{c.low:.2f} to {c.high:.2f} s", f"{c.seconds / first:.2f}"]
        for c in commands
    ]
    return table(["", "wall clock", "range", "ratio"], rows)


def stage_table(stages: list[time_pipeline.Stage]) -> str:
    """Start, whole and memory of each stage, and of all."""
    rows: list[list[object]] = [
        [s.name, f"{s.start:.1f} s", f"{s.seconds:.1f} s", f"{s.megabytes:.0f} MB"] for s in stages
    ]
    starts, wholes = sum(s.start for s in stages), sum(s.seconds for s in stages)
    rows.append(["all", f"{starts:.1f} s", f"{wholes:.1f} s", ""])
    return table(["stage", "start", "whole", "peak memory"], rows)


def draw(training: list[time_training.Result]) -> None:
    """Plot the time to 99 % as bars."""
    figure, axes = plt.subplots(figsize=(8, 2.5), layout="constrained")
    names = [found.name for found in training]
    bars = axes.barh(names, [median(found.seconds) for found in training], color=BLUE)
    axes.bar_label(bars, fmt="%.0f s", padding=3)
    axes.set_xlabel("seconds of training to 99 %")
    axes.invert_yaxis()
    axes.margins(x=0.1)
    hide_spines(axes)
    with replacing(HERE / "results.png") as partial:
        figure.savefig(partial, format="png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    with exit_on_error("bench"):
        main()
