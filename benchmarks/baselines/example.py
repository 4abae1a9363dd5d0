"""Baseline (b): the network of 1.2 million parameters that most introductions start from.

Convolutions of 32 and 64 channels, max-pool, dropout and two linear layers, with Adadelta: as the
basic MNIST example of https://github.com/pytorch/examples describes it.
"""

from loop import run
from torch import nn
from torch.optim import Adadelta


def network() -> nn.Module:
    """1,199,882 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3),
        nn.ReLU(),
        nn.Conv2d(32, 64, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


if __name__ == "__main__":
    run(network, lambda parameters: Adadelta(parameters, lr=1.0), gamma=0.7)
