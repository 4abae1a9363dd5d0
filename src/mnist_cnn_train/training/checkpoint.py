"""The state of an unfinished training, from which it resumes after an interruption.

It lies outside the outputs of the pipeline, since DVC deletes those before it runs a stage.
"""

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from mnist_cnn.core.files import write_bytes
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.pipeline.paths import CHECKPOINTS

DIGEST_SIZE = hashlib.sha256().digest_size


class Checkpoint:
    """A file that holds the state of one training: tensors by their names."""

    def __init__(self, path: Path) -> None:
        """Keep the state at `path`, a file of its own."""
        self.path = path

    @classmethod
    def of(cls, settings: Iterable[str], data: Iterable[Dataset]) -> Self:
        """That of a training of this code on this kind of machine, with `settings` and `data`."""
        key = hashlib.sha256()
        for module in imported_sources():
            key.update(hashlib.sha256(module.read_bytes()).digest())
        machine = (torch.__version__, torch.backends.cpu.get_cpu_capability())
        for text in (*machine, *settings):
            key.update(hashlib.sha256(text.encode()).digest())
        for digits in data:
            for values in (digits.images, digits.labels):
                key.update(hashlib.sha256(np.ascontiguousarray(values).data).digest())
        return cls(CHECKPOINTS / f"train-{key.hexdigest()[:32]}")

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Replace the state, whole or not at all."""
        content = save({name: tensor.cpu().contiguous() for name, tensor in state.items()})
        # Safetensors would not notice a changed number.
        write_bytes(self.path, hashlib.sha256(content).digest() + content)

    def load(self) -> dict[str, Tensor] | None:
        """The state; None where there is none, or where it is damaged, which is told."""
        try:
            written = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, content = written[:DIGEST_SIZE], written[DIGEST_SIZE:]
        if hashlib.sha256(content).digest() != digest:
            tqdm.write(f"{self.path} is damaged; training starts again")
            return None
        return load(content)

    def remove(self) -> None:
        """Forget the state, once nothing is unfinished."""
        self.path.unlink(missing_ok=True)


def imported_sources() -> list[Path]:
    """The files of the project's modules that this process has imported: no other code matters."""
    return sorted(
        Path(module.__file__)
        for name, module in list(sys.modules.items())
        if name.startswith(("mnist_cnn.", "mnist_cnn_train.")) and module.__file__
    )


@dataclass(frozen=True)
class TrainingState:
    """All that changes while training; `tensors` and `restore` are each other's inverse."""

    network: nn.Module
    averaged: AveragedModel | None
    optimizer: Optimizer
    schedule: LambdaLR
    generator: torch.Generator
    sample_losses: Tensor

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"network": self.network}
        return modules | ({"averaged": self.averaged} if self.averaged else {})

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        found = {
            f"{prefix}.{name}": tensor
            for prefix, module in self._modules().items()
            for name, tensor in module.state_dict().items()
        }
        for place, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{place}.{name}": value for name, value in moments.items()}
        found["steps"] = torch.tensor(self.schedule.last_epoch)
        found["order"] = self.generator.get_state()
        found["dropout"] = _generator_of(self.sample_losses.device).get_state()
        found["hardness"] = self.sample_losses
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put everything back."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            prefix, _, rest = name.partition(".")
            parts[prefix][rest] = tensor
        for prefix, module in self._modules().items():
            module.load_state_dict(parts[prefix])
        self._restore_optimizer(parts["optimizer"], int(tensors["steps"]))
        self.generator.set_state(tensors["order"])
        _generator_of(self.sample_losses.device).set_state(tensors["dropout"])
        self.sample_losses.copy_(tensors["hardness"])

    def _restore_optimizer(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            place, _, moment = name.partition(".")
            like = parameters[int(place)]
            if tensor.shape == like.shape:
                # In memory, moments lie as their parameter does: fused optimizers rely on it.
                tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
            moments[int(place)][moment] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": dict(moments)})
        self.schedule.last_epoch = steps
        for group, rate, share in zip(
            self.optimizer.param_groups,
            self.schedule.base_lrs,
            self.schedule.lr_lambdas,
            strict=True,
        ):
            group["lr"] = rate * share(steps)


def _generator_of(device: torch.device) -> torch.Generator:
    """Torch's own, which dropout draws from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator
