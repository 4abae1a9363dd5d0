"""The loop that both baselines share: per-image transforms in a DataLoader, batches of 64.

Prints a line of JSON for each epoch: seconds of training so far, and accuracy on the test images.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import Compose, Normalize, ToTensor

from mnist_cnn.core.mnist import PIXEL_MEAN, PIXEL_STD


def run(
    build: Callable[[], nn.Module],
    optimize: Callable[[Iterable[nn.Parameter]], Optimizer],
    gamma: float = 1.0,
) -> None:
    """Train what `build` makes with what `optimize` makes; the rate falls by `gamma` an epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", help="that holds MNIST/raw")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    transform = Compose([ToTensor(), Normalize((PIXEL_MEAN,), (PIXEL_STD,))])
    training, test = (MNIST(options.folder, part, transform=transform) for part in (True, False))
    batches = DataLoader(training, batch_size=64, shuffle=True)
    network = build()
    optimizer = optimize(network.parameters())
    schedule = StepLR(optimizer, step_size=1, gamma=gamma)
    seconds = 0.0
    for epoch in range(1, options.epochs + 1):
        start = time.perf_counter()
        network.train()
        for images, labels in batches:
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        found = accuracy(network, DataLoader(test, batch_size=1000))
        print(json.dumps({"epoch": epoch, "seconds": seconds, "accuracy": found}), flush=True)


@torch.no_grad()
def accuracy(network: nn.Module, batches: DataLoader) -> float:
    """The share of right predictions, from 0 to 1."""
    network.eval()
    results = [network(images).argmax(1) == labels for images, labels in batches]
    return torch.cat(results).float().mean().item()
