"""What it costs to compute alike on every processor: training with the caps and without, in turn.

Prints the median ratio over the rounds, of the default recipe's epochs on one thread.
"""

import argparse
import os
import subprocess
import sys
import time
from statistics import median

from mnist_cnn_train.pipeline.processor import this_processor

EPOCHS = 2


def train_once() -> None:
    """Print the seconds of training, from pixels in memory."""
    from mnist_cnn_train.data.dataset import read_training_digits
    from mnist_cnn_train.pipeline.params import load_params
    from mnist_cnn_train.pipeline.paths import RAW_DATA
    from mnist_cnn_train.training.loop import train

    params = load_params()
    recipe = params.train.model_copy(update={"epochs": EPOCHS, "device": "cpu"})
    digits = read_training_digits(RAW_DATA)
    start = time.perf_counter()
    train(digits, None, params.model, recipe)
    print(time.perf_counter() - start)


def measure(environment: dict[str, str]) -> float:
    """Seconds of a training in a process with `environment` besides."""
    command = [sys.executable, __file__, "--once"]
    ended = subprocess.run(  # noqa: S603
        command, env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return float(ended.stdout.split()[-1])


def main() -> None:
    """Compare over rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        train_once()
        return
    caps = this_processor().caps
    ratios = [measure(caps) / measure({}) for _ in range(options.rounds)]
    print(
        f"{this_processor()}: {median(ratios):.2f} times as long with the caps as without", end=""
    )
    print(f" ({min(ratios):.2f} to {max(ratios):.2f}, {options.rounds} rounds)")


if __name__ == "__main__":
    main()
