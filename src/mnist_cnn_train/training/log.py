"""Training log: the metrics of each epoch."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EpochLog:
    """Metrics of one epoch; losses are in nats."""

    epoch: int
    train_loss: float  # mean over batches, with the raw weights, on the epoch's images
    # With the averaged weights; None without validation images.
    validation_loss: float | None  # cross-entropy
    validation_accuracy: float | None  # from 0 to 1


def format_epoch(entry: EpochLog, epochs: int) -> str:
    """Format one line about an epoch."""
    line = f"epoch {entry.epoch}/{epochs}: loss {entry.train_loss:.4f}"
    if entry.validation_loss is None:
        return line
    return (
        f"{line}, validation loss {entry.validation_loss:.4f}, "
        f"accuracy {entry.validation_accuracy:.2%}"
    )


def to_tensor(log: Sequence[EpochLog]) -> Tensor:
    """Return one row per epoch, float64 ``[epochs, 4]``; NaN stands for None.

    A log itself contains no NaN, since training ends if the loss is NaN.
    """
    rows = [[math.nan if value is None else value for value in astuple(entry)] for entry in log]
    return torch.tensor(rows, dtype=torch.float64)


def from_tensor(tensor: Tensor) -> list[EpochLog]:
    """Invert `to_tensor`."""
    return [
        EpochLog(int(epoch), loss, *(None if math.isnan(value) else value for value in validation))
        for epoch, loss, *validation in tensor.tolist()
    ]
