"""Device, determinism, optimizer and learning-rate schedule of a training run."""

import os
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.pipeline.params import Train


def select_device(name: str) -> torch.device:
    """Return the device for `train.device`; ``auto`` is cuda, else mps, else cpu.

    Raises:
        MnistCnnError: if the device is not available.
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


def make_deterministic(recipe: Train) -> None:
    """Seed torch, and restrict it to deterministic algorithms."""
    # cuBLAS is deterministic only with a fixed workspace size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Like `use_deterministic_algorithms`, which takes a second longer, as it imports a compiler.
    torch.set_deterministic_debug_mode("error")
    # Filling new memory guards against uninitialized reads, which do not occur here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(1)  # more gain little for such small operations
    torch.manual_seed(recipe.seed)


def make_optimizer(network: nn.Module, recipe: Train) -> Optimizer:
    """Create SGD or AdamW, with weight decay only on weights."""
    # Not on biases and norms: they only shift and scale, so decay would not regularize.
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
    return AdamW(groups, recipe.learning_rate, betas=(recipe.momentum, 0.999), fused=True)


def learning_rate_factor(recipe: Train, steps: int) -> Callable[[int], float]:
    """Return the schedule: a function from the step to the fraction of the peak learning rate.

    The rate rises linearly during warmup. It then falls linearly to zero (``linear``) or stays
    (``constant``).
    """
    warmup = recipe.warmup * steps

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if recipe.schedule == "constant":
            return 1.0
        return 1 - (step - warmup) / (steps - warmup)

    return factor
