"""The recipe: a short schedule of SGD or AdamW on distorted digits, with averaged weights."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from mnist_cnn.augmentation import distort
from mnist_cnn.digits import Digits
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.model import DigitCNN, predict_logits, to_input
from mnist_cnn.params import Model, Train


@dataclass(frozen=True)
class EpochLog:
    """What one epoch gave; losses are cross-entropies in nats."""

    epoch: int
    train_loss: float  # mean over the batches, of the raw weights, distorted or not
    validation_loss: float  # of the averaged weights
    validation_accuracy: float  # of the averaged weights, from 0 to 1


@dataclass(frozen=True)
class Trained:
    """What training gave: the network in evaluation mode on the CPU, and its history."""

    network: nn.Module
    log: list[EpochLog]


def select_device(name: str) -> torch.device:
    """The device that `train.device` asks for; ``auto`` is cuda, else mps, else cpu.

    Raises:
        MnistCnnError: this machine does not have it.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, is_present in present.items() if is_present)
    if not present[name]:
        raise MnistCnnError(
            f"train.device is {name}, but this machine has none that torch can use; "
            "set it to auto or cpu in params.yaml"
        )
    return torch.device(name)


def train(training: Digits, validation: Digits, model: Model, recipe: Train) -> Trained:
    """Train a `DigitCNN` on `training`, and watch it on `validation`, which changes nothing.

    The network that is returned has the averaged weights. The same arguments on the same
    machine give the same weights, to the bit.

    Raises:
        MnistCnnError: the loss became infinite or NaN, or the device is absent.
    """
    device = select_device(recipe.device)
    _make_deterministic(recipe)
    network = DigitCNN(model.dropout).to(device).to(memory_format=torch.channels_last)
    # Batch statistics are averaged like the weights, so that the two belong together.
    averaged = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True
    )
    images, labels = _on(device, training)
    validation_images, validation_labels = _on(device, validation)
    generator = torch.Generator(device).manual_seed(recipe.seed)
    steps = math.ceil(len(images) / recipe.batch_size)
    optimizer = _optimizer(network, recipe)
    schedule = LambdaLR(optimizer, _schedule(recipe, recipe.epochs * steps))

    log: list[EpochLog] = []
    with tqdm(total=recipe.epochs * steps, unit="batch", leave=False, disable=None) as progress:
        for epoch in range(1, recipe.epochs + 1):
            is_clean = epoch > recipe.epochs - recipe.clean_epochs
            network.train()
            losses = torch.empty(steps, device=device)
            order = torch.randperm(len(images), generator=generator, device=device)
            for step, chosen in enumerate(order.split(recipe.batch_size)):
                batch = to_input(images[chosen])
                if not is_clean:
                    batch = distort(batch, recipe.augmentation, generator)
                loss = functional.cross_entropy(network(batch), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                losses[step] = loss.detach()
                progress.update()
            logits = predict_logits(averaged, validation_images)
            correct = (logits.argmax(1) == validation_labels).sum().item()
            entry = EpochLog(
                epoch,
                train_loss=losses.mean().item(),
                validation_loss=functional.cross_entropy(logits, validation_labels).item(),
                validation_accuracy=correct / len(validation),
            )
            _check_finite(losses, entry)
            log.append(entry)
            tqdm.write(
                f"epoch {epoch}/{recipe.epochs}: loss {entry.train_loss:.4f}, "
                f"validation loss {entry.validation_loss:.4f}, "
                f"accuracy {entry.validation_accuracy:.2%}"
            )
    return Trained(averaged.module.cpu().eval(), log)


def _on(device: torch.device, digits: Digits) -> tuple[Tensor, Tensor]:
    """Images and labels of `digits` as tensors on `device`."""
    return torch.from_numpy(digits.images).to(device), torch.from_numpy(digits.labels).to(device)


def _make_deterministic(recipe: Train) -> None:
    # cuBLAS is deterministic only with a fixed workspace, which it reads from here.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)


def _optimizer(network: nn.Module, recipe: Train) -> Optimizer:
    # Biases and norms only shift and scale: decay would hold them back and smooth nothing.
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
    return AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, 0.999))


def _schedule(recipe: Train, steps: int) -> Callable[[int], float]:
    """The share of the peak learning rate at each step: up in a line, then down to zero."""
    warmup = recipe.warmup * steps

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        fallen = (step - warmup) / (steps - warmup)
        return (1 + math.cos(math.pi * fallen)) / 2 if recipe.schedule == "cosine" else 1 - fallen

    return share


def _check_finite(losses: Tensor, entry: EpochLog) -> None:
    broken = (~losses.isfinite()).nonzero().flatten().tolist()
    if broken:
        loss, step = losses[broken[0]].item(), broken[0] + 1
    elif not math.isfinite(entry.validation_loss):  # broken by the very last step
        loss, step = entry.validation_loss, len(losses)
    else:
        return
    raise MnistCnnError(
        f"the loss became {loss} in epoch {entry.epoch}, step {step} of {len(losses)}; "
        "lower train.learning_rate in params.yaml"
    )
