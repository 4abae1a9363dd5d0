"""What each epoch of a training gave."""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EpochLog:
    """What one epoch gave; the losses are in nats."""

    epoch: int
    train_loss: float  # mean over the batches, of the raw weights, augmented or not
    # Of the averaged weights; None where no image is held out.
    validation_loss: float | None  # cross-entropy
    validation_accuracy: float | None  # from 0 to 1


def format_epoch(entry: EpochLog, epochs: int) -> str:
    """One line about an epoch."""
    line = f"epoch {entry.epoch}/{epochs}: loss {entry.train_loss:.4f}"
    if entry.validation_loss is None:
        return line
    return (
        f"{line}, validation loss {entry.validation_loss:.4f}, "
        f"accuracy {entry.validation_accuracy:.2%}"
    )


def to_tensor(log: Sequence[EpochLog]) -> Tensor:
    """One row for each epoch, float64 ``[epochs, 4]``; NaN stands for None.

    No number of a log is NaN, since a loss that is NaN ends the training.
    """
    rows = [[math.nan if value is None else value for value in astuple(entry)] for entry in log]
    return torch.tensor(rows, dtype=torch.float64)


def from_tensor(tensor: Tensor) -> list[EpochLog]:
    """The log that `to_tensor` gave `tensor` for."""
    return [
        EpochLog(int(epoch), loss, *(None if math.isnan(value) else value for value in validation))
        for epoch, loss, *validation in tensor.tolist()
    ]
