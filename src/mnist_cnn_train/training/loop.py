"""Training loop: a short schedule of SGD or AdamW on augmented images, with averaged weights."""

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.model.networks import build, predict_logits
from mnist_cnn_train.pipeline.params import Model, Train
from mnist_cnn_train.training.augmentation import EpochImages, epoch_images
from mnist_cnn_train.training.averaging import WeightAverage
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.distributed import (
    SINGLE_PROCESS,
    DistributedGradients,
    ProcessGroup,
)
from mnist_cnn_train.training.log import EpochLog, format_epoch
from mnist_cnn_train.training.parallel import ThreadedGradients
from mnist_cnn_train.training.sampling import EpochSampler
from mnist_cnn_train.training.setup import (
    learning_rate_factor,
    make_deterministic,
    make_optimizer,
    select_device,
)
from mnist_cnn_train.training.state import TrainingState

logger = logging.getLogger(__name__)

Gradients = ThreadedGradients | DistributedGradients

# From logits, float [n, classes], and labels, int64 [n], to the mean loss.
Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Trained:
    """Result of training: the network, in evaluation mode on the CPU, and its log."""

    network: nn.Module
    log: list[EpochLog]


class DivergedError(MnistCnnError):
    """The loss became infinite or NaN."""


def train(
    training: Dataset,
    validation: Dataset | None,
    model: Model,
    recipe: Train,
    checkpoint: Checkpoint | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
    after_epoch: Callable[[EpochLog], None] | None = None,
    criterion: Criterion | None = None,
) -> Trained:
    """Train the network that `model` describes, and return it with averaged weights.

    The same arguments on the same machine give identical weights, also after an interruption.

    Args:
        training: images to train on.
        validation: images to evaluate on after each epoch; they do not affect the weights.
        model: the network.
        recipe: the training settings.
        checkpoint: saved after each epoch; training resumes from it. One for all processes.
        processes: the process group; each process must call this with the same arguments.
        after_epoch: called after each epoch trained by this call; its exceptions end training.
        criterion: the loss; by default, cross-entropy with the recipe's label smoothing.

    Raises:
        DivergedError: if the loss became infinite or NaN.
        MnistCnnError: if the device is not available.
    """
    device = select_device(recipe.device)
    make_deterministic(recipe)
    network = build(model, len(training.names)).to(device).to(memory_format=torch.channels_last)
    state = _initial_state(network, EpochSampler(len(training), recipe, device), recipe)
    _resume(state, checkpoint)
    pixels, labels = _tensors(training, device)
    smoothed = partial(functional.cross_entropy, label_smoothing=recipe.label_smoothing)
    with _gradients(network, recipe, processes) as gradients, _progress_bar(state) as progress:
        for epoch in range(len(state.log) + 1, recipe.epochs + 1):
            images = epoch_images(pixels, recipe, epoch)
            loss = _Loss(images, labels, state.sampler, criterion or smoothed)
            losses = _train_epoch(epoch, state, gradients, loss, progress)
            entry = EpochLog(epoch, losses.mean().item(), *_validate(state, validation, device))
            _check_finite(losses, entry)
            state.log.append(entry)
            logger.info(format_epoch(entry, recipe.epochs))
            if checkpoint:
                checkpoint.save(state.tensors())
            if after_epoch:
                after_epoch(entry)
    return Trained(state.average.network.cpu().eval(), state.log)


def _initial_state(network: nn.Module, sampler: EpochSampler, recipe: Train) -> TrainingState:
    average = WeightAverage(network, recipe.ema_decay)
    optimizer = make_optimizer(network, recipe)
    schedule = LambdaLR(optimizer, learning_rate_factor(recipe, sampler.steps))
    return TrainingState(network, average, optimizer, schedule, sampler)


def _resume(state: TrainingState, checkpoint: Checkpoint | None) -> None:
    saved = checkpoint.load() if checkpoint else None
    if saved:
        state.restore(saved)
        logger.info("resuming after epoch %d", len(state.log))


def _gradients(
    network: nn.Module, recipe: Train, processes: ProcessGroup
) -> AbstractContextManager[Gradients]:
    if processes.count > 1:
        return nullcontext(DistributedGradients(network, processes))
    on_cpu = next(network.parameters()).device.type == "cpu"
    return ThreadedGradients(network, recipe.threads if on_cpu else 1)


def _progress_bar(state: TrainingState) -> "tqdm[NoReturn]":
    """Create a progress bar, shown on terminals if logging is enabled too."""
    hidden = None if logger.isEnabledFor(logging.INFO) else True
    done, steps = state.schedule.last_epoch, state.sampler.steps
    return tqdm(total=steps, initial=done, unit="batch", leave=False, disable=hidden)


def _train_epoch(
    epoch: int,
    state: TrainingState,
    gradients: Gradients,
    loss: "_Loss",
    progress: "tqdm[NoReturn]",
) -> Tensor:
    """Train one epoch; return the mean loss of each batch, float32 ``[batches]``."""
    state.network.train()
    batches = state.sampler.batches(epoch)
    losses = torch.empty(len(batches), device=loss.labels.device)
    for step, chosen in enumerate(batches):
        losses[step] = gradients.backward(loss, chosen)
        state.step()
        progress.update()
    return losses


@dataclass(frozen=True)
class _Loss:
    """Mean loss over a batch of one epoch's images."""

    images: EpochImages
    labels: Tensor
    sampler: EpochSampler
    criterion: Criterion

    def __call__(self, network: nn.Module, chosen: Tensor) -> Tensor:
        labels = self.labels[chosen]
        logits = network(self.images.to_input(chosen))
        self.sampler.note(chosen, logits, labels)
        return self.criterion(logits, labels)


def _validate(
    state: TrainingState, validation: Dataset | None, device: torch.device
) -> tuple[float | None, float | None]:
    """Return cross-entropy and accuracy on `validation`."""
    if validation is None:
        return None, None
    pixels, labels = _tensors(validation, device)
    logits = predict_logits(state.average.network, pixels)[:, : len(validation.names)]
    correct = (logits.argmax(1) == labels).sum().item()
    return functional.cross_entropy(logits, labels).item(), correct / len(validation)


def _tensors(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return images, uint8 ``[n, 28, 28]``, and labels, int64 ``[n]``, on `device`."""
    return torch.from_numpy(dataset.images).to(device), torch.from_numpy(dataset.labels).to(device)


def _check_finite(losses: Tensor, entry: EpochLog) -> None:
    broken = (~losses.isfinite()).nonzero().flatten().tolist()
    if broken:
        loss, step = losses[broken[0]].item(), broken[0] + 1
    elif entry.validation_loss and not math.isfinite(entry.validation_loss):  # due to the last step
        loss, step = entry.validation_loss, len(losses)
    else:
        return
    raise DivergedError(
        f"the loss became {loss} in epoch {entry.epoch}, step {step} of {len(losses)}; "
        "lower train.learning_rate in params.yaml"
    )
