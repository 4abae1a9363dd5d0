"""Baseline (a): the script that most people write, with this project's network and Adam."""

from loop import run
from torch import nn
from torch.optim import Adam


def network() -> nn.Module:
    """8,890 parameters; convolution, norm, ReLU and max-pool in the order of the textbooks."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    layers = [*block(1, 8), *block(8, 16), *block(16, 32)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 10))


if __name__ == "__main__":
    run(network, lambda parameters: Adam(parameters, lr=0.0005))
