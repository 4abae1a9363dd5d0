"""The recipe: a short schedule of SGD or AdamW on distorted digits, with averaged weights."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.model.networks import build, predict_logits, to_input
from mnist_cnn_train.pipeline.params import Model, Train
from mnist_cnn_train.training.checkpoint import Checkpoint, TrainingState
from mnist_cnn_train.training.distributed import (
    SINGLE_PROCESS,
    DistributedGradients,
    ProcessGroup,
    gather,
    synchronize,
)
from mnist_cnn_train.training.parallel import ThreadedGradients
from mnist_cnn_train.training.setup import (
    averaged_copy,
    learning_rate_factor,
    make_deterministic,
    make_optimizer,
    select_device,
)
from mnist_cnn_train.transforms.affine import sample_distortions, warp
from mnist_cnn_train.transforms.corruptions import corrupt_batch, to_pixels

# Many enough to be quick, few enough for the memory.
DAMAGED_AT_ONCE = 2_500


@dataclass(frozen=True)
class EpochLog:
    """What one epoch gave; the losses are in nats."""

    epoch: int
    train_loss: float  # mean over the batches, of the raw weights, distorted or not
    # Of the averaged weights; None where no image is held out.
    validation_loss: float | None  # cross-entropy
    validation_accuracy: float | None  # from 0 to 1


@dataclass(frozen=True)
class Trained:
    """What training gave: the network in evaluation mode on the CPU, and its history."""

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
) -> Trained:
    """Train a network on `training`, and watch it on `validation`, which changes nothing.

    The network that is returned has the averaged weights. The same arguments on the same
    machine give the same weights, to the bit.

    Args:
        training: what to learn from.
        validation: what to watch; None where nothing is held out.
        model: which network to build.
        recipe: how to train it.
        checkpoint: where the state is kept after each epoch, and where training resumes from.
            That changes nothing in the result, to the bit.
        processes: those that share the batches, of which each calls this with the same arguments
            and returns the same network. What all of them compute is what one would, but for the
            order in which sums are rounded.
        after_epoch: called with what each epoch gave that is trained now; what it raises ends the
            training.

    Raises:
        DivergedError: the loss became infinite or NaN.
        MnistCnnError: the device is absent.
    """
    device = select_device(recipe.device, processes)
    make_deterministic(recipe)
    network = build(model, len(training.names)).to(device).to(memory_format=torch.channels_last)
    synchronize(network, processes)
    averaged = averaged_copy(network, recipe)
    images, labels = _on(device, training)
    sample_losses = torch.zeros(len(images), device=device)
    generator = torch.Generator(device).manual_seed(recipe.seed)
    sizes = epoch_sizes(len(images), recipe)
    steps = sum(math.ceil(size / recipe.batch_size) for size in sizes)
    optimizer = make_optimizer(network, recipe)
    schedule = LambdaLR(optimizer, learning_rate_factor(recipe, steps))
    threads = recipe.threads if device.type == "cpu" else 1

    log: list[EpochLog] = []
    state = TrainingState(network, averaged, optimizer, schedule, generator, sample_losses)
    saved = checkpoint.load() if checkpoint and processes.is_leader else None
    if saved := processes.broadcast_from_leader(saved):
        log = _log_of(saved.pop("log"))
        state.restore(saved)
        _report(f"going on after epoch {log[-1].epoch}", processes)
    with (
        _gradients(network, threads, processes) as gradients,
        tqdm(
            total=steps,
            initial=schedule.last_epoch,
            unit="batch",
            leave=False,
            disable=None if processes.is_leader else True,
        ) as progress,
    ):
        for epoch, size in list(enumerate(sizes, start=1))[len(log) :]:
            distortions = _sample_distortions(len(images), recipe, epoch, device)
            seen = images
            if (
                recipe.augmentation.corruption
                and epoch <= recipe.epochs - recipe.unaugmented_epochs
            ):
                seen = _damaged(images, distortions, recipe, epoch, processes)
                distortions = None
            loss = _Loss(seen, labels, distortions, sample_losses, recipe)
            network.train()
            batches = _sample_order(sample_losses, size, generator).split(recipe.batch_size)
            losses = torch.empty(len(batches), device=device)
            for step, chosen in enumerate(batches):
                losses[step] = gradients.backward(loss, chosen)
                optimizer.step()
                schedule.step()
                if averaged:
                    averaged.update_parameters(network)
                progress.update()
            gather(sample_losses, batches, processes)
            watched = _watch(averaged or network, validation, device)
            entry = EpochLog(epoch, losses.mean().item(), *watched)
            _check_finite(losses, entry)
            log.append(entry)
            _report(format_epoch(entry, recipe.epochs), processes)
            if checkpoint and processes.is_leader:
                checkpoint.save({**state.tensors(), "log": _tensor_of(log)})
            if after_epoch:
                after_epoch(entry)
    final: nn.Module = averaged.module if averaged else network
    return Trained(final.cpu().eval(), log)


def _gradients(
    network: nn.Module, threads: int, processes: ProcessGroup
) -> AbstractContextManager[ThreadedGradients | DistributedGradients]:
    if processes.count > 1:
        return nullcontext(DistributedGradients(network, processes))
    return ThreadedGradients(network, threads)


def epoch_sizes(images: int, recipe: Train) -> list[int]:
    """How many of `images` each epoch takes: all, then the hardest ones."""
    return [images, *[math.ceil(recipe.hard_example_fraction * images)] * (recipe.epochs - 1)]


@dataclass(frozen=True)
class _Loss:
    """The mean loss of a batch of the training images, as one epoch distorts them."""

    images: Tensor
    labels: Tensor
    distortions: Tensor | None
    sample_losses: Tensor  # each image's loss when it was last seen, noted where it counts
    recipe: Train

    def __call__(self, network: nn.Module, chosen: Tensor) -> Tensor:
        labels = self.labels[chosen]
        batch = to_input(self.images[chosen])
        if self.distortions is not None:
            batch = warp(batch, self.distortions[chosen])
        half = self.recipe.precision == "bf16"
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
            logits = network(batch)
        logits = logits.float()
        if self.recipe.hard_example_fraction < 1:
            losses = functional.cross_entropy(logits.detach(), labels, reduction="none")
            self.sample_losses[chosen] = losses
        smoothing = self.recipe.label_smoothing
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def _sample_distortions(
    images: int, recipe: Train, epoch: int, device: torch.device
) -> Tensor | None:
    """The matrices of one epoch, or None where the images stay as they are."""
    if epoch > recipe.epochs - recipe.unaugmented_epochs or recipe.augmentation.distorts_nothing:
        return None
    return sample_distortions(images, recipe.augmentation, (recipe.seed, epoch)).to(device)


def _damaged(
    images: Tensor, distortions: Tensor | None, recipe: Train, epoch: int, processes: ProcessGroup
) -> Tensor:
    """All `images`, uint8 ``[n, 28, 28]``, as one epoch distorts and then damages them."""
    damaged = torch.zeros_like(images)
    starts = range(0, len(images), DAMAGED_AT_ONCE)
    for start in starts[processes.rank :: processes.count]:
        part = slice(start, start + DAMAGED_AT_ONCE)
        batch = to_input(images[part])
        if distortions is not None:
            batch = warp(batch, distortions[part])
        batch = corrupt_batch(batch, recipe.augmentation.corruption, (recipe.seed, epoch, start))
        damaged[part] = to_pixels(batch)
    return processes.all_reduce(damaged)  # what the others have not damaged is 0


def _sample_order(sample_losses: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The `size` hardest images, shuffled."""
    order = torch.randperm(size, generator=generator, device=sample_losses.device)
    return order if size == len(sample_losses) else sample_losses.topk(size).indices[order]


def _watch(
    network: nn.Module, validation: Dataset | None, device: torch.device
) -> tuple[float | None, float | None]:
    """Cross-entropy and accuracy on `validation`."""
    if validation is None:
        return None, None
    images, labels = _on(device, validation)
    logits = predict_logits(network, images)
    correct = (logits.argmax(1) == labels).sum().item()
    return functional.cross_entropy(logits, labels).item(), correct / len(validation)


def _tensor_of(log: Sequence[EpochLog]) -> Tensor:
    """One row for each epoch; NaN stands for None, since a loss that is NaN ends the training."""
    rows = [[math.nan if value is None else value for value in astuple(entry)] for entry in log]
    return torch.tensor(rows, dtype=torch.float64)


def _log_of(tensor: Tensor) -> list[EpochLog]:
    return [
        EpochLog(int(epoch), loss, *(None if math.isnan(value) else value for value in watched))
        for epoch, loss, *watched in tensor.tolist()
    ]


def _report(line: str, processes: ProcessGroup) -> None:
    if processes.is_leader:
        tqdm.write(line)


def format_epoch(entry: EpochLog, epochs: int) -> str:
    """One line about an epoch."""
    line = f"epoch {entry.epoch}/{epochs}: loss {entry.train_loss:.4f}"
    if entry.validation_loss is None:
        return line
    return (
        f"{line}, validation loss {entry.validation_loss:.4f}, "
        f"accuracy {entry.validation_accuracy:.2%}"
    )


def _on(device: torch.device, digits: Dataset) -> tuple[Tensor, Tensor]:
    """Images and labels of `digits` as tensors on `device`."""
    return torch.from_numpy(digits.images).to(device), torch.from_numpy(digits.labels).to(device)


def _check_finite(losses: Tensor, entry: EpochLog) -> None:
    broken = (~losses.isfinite()).nonzero().flatten().tolist()
    if broken:
        loss, step = losses[broken[0]].item(), broken[0] + 1
    elif entry.validation_loss and not math.isfinite(entry.validation_loss):  # by the last step
        loss, step = entry.validation_loss, len(losses)
    else:
        return
    raise DivergedError(
        f"the loss became {loss} in epoch {entry.epoch}, step {step} of {len(losses)}; "
        "lower train.learning_rate in params.yaml"
    )
