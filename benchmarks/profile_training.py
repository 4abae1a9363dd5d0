"""Where the time of training goes: the operations of the recipe `speed`, on one thread."""

import time
from dataclasses import dataclass

from ours import speed
from torch.profiler import ProfilerActivity, profile

from mnist_cnn_train.data.dataset import read_training_digits
from mnist_cnn_train.pipeline.paths import RAW_DATA
from mnist_cnn_train.training.loop import train

# torch's names of what is called once for each of these; nothing is counted twice.
OPERATIONS = {
    "convolutions, forward": ("aten::conv2d",),
    "convolutions, backward": ("aten::convolution_backward",),
    "max-pool, forward": ("aten::max_pool2d",),
    "max-pool, backward": ("aten::max_pool2d_with_indices_backward",),
    "batch norm": ("aten::batch_norm", "aten::native_batch_norm_backward"),
    "ReLU": ("aten::relu_", "aten::threshold_backward"),
    "linear layer": ("aten::linear", "AddmmBackward0"),
    "picking images and labels": ("aten::index",),
    "loss": ("aten::cross_entropy_loss", "LogSoftmaxBackward0", "NllLossBackward0"),
    "optimizer": ("Optimizer.step#AdamW.step", "Optimizer.step#SGD.step"),
}


@dataclass(frozen=True)
class Operation:
    """A share of the time of training, from 0 to 1."""

    name: str
    share: float


def measure() -> list[Operation]:
    """The share of each kind of operation, and of all the rest."""
    params = speed(seed=0, threads=1)
    digits = read_training_digits(RAW_DATA)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        train(digits, None, params.model, params.train)
        whole = (time.perf_counter() - start) * 1e6
    taken = {event.key: event.cpu_time_total for event in profiler.key_averages()}
    found = [
        Operation(name, sum(taken.get(key, 0.0) for key in keys) / whole)
        for name, keys in OPERATIONS.items()
    ]
    return [*found, Operation("all else", 1 - sum(operation.share for operation in found))]
