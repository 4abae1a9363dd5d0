"""Time to 99 % accuracy on the test images: the recipe `speed` against two baselines.

All run in turn, round by round, each in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from mnist_cnn_train.pipeline.paths import RAW_DATA
from mnist_cnn_train.pipeline.processor import this_processor

HERE = Path(__file__).parent
GOAL = 0.99


@dataclass(frozen=True)
class Contender:
    """A script, and how many epochs each run is given."""

    name: str
    script: str
    epochs: int | None  # None: the recipe's own


CONTENDERS = (
    Contender("ours", "ours.py", None),
    Contender("usual script", "baselines/usual.py", 8),
    Contender("1.2 million parameters", "baselines/example.py", 5),
)


@dataclass(frozen=True)
class Result:
    """The epochs that take a contender's mean accuracy to the goal, by all rounds.

    `seconds` has one entry for each round; `accuracy` too. A baseline is stopped after the first
    epoch whose mean accuracy over the rounds reaches the goal: that is chosen on the test images,
    in its favor. Ours has the number of epochs that was fixed beforehand.
    """

    name: str
    epochs: int
    reached: bool
    seconds: list[float]
    accuracy: list[float]


def measure(rounds: int, threads: int) -> list[Result]:
    """Run all contenders `rounds` times, with seeds from 0."""
    lines: dict[str, list[list[dict[str, float]]]] = {c.name: [] for c in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        # torchvision looks for the files in MNIST/raw
        (Path(folder) / "MNIST").mkdir()
        (Path(folder) / "MNIST/raw").symlink_to(RAW_DATA.resolve())
        turns = [(seed, contender) for seed in range(rounds) for contender in CONTENDERS]
        for seed, contender in tqdm(turns, unit="run", disable=None):
            command = [sys.executable, str(HERE / contender.script)]
            command += ["--seed", str(seed), "--threads", str(threads)]
            if contender.epochs:
                command += [folder, "--epochs", str(contender.epochs)]
            caps = this_processor().caps if contender.name == "ours" else {}  # as the train stage
            output = subprocess.run(  # noqa: S603
                command, env={**os.environ, **caps}, check=True, capture_output=True, text=True
            ).stdout
            found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            lines[contender.name].append(found)
    return [_until_the_goal(name, runs) for name, runs in lines.items()]


def _until_the_goal(name: str, runs: list[list[dict[str, float]]]) -> Result:
    by_epoch = list(zip(*runs, strict=True))
    reached = [e for e in by_epoch if mean(run["accuracy"] for run in e) >= GOAL]
    taken = reached[0] if reached else by_epoch[-1]
    return Result(
        name=name,
        epochs=int(taken[0]["epoch"]),
        reached=bool(reached),
        seconds=[run["seconds"] for run in taken],
        accuracy=[run["accuracy"] for run in taken],
    )
