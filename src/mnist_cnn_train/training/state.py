"""The state of a training run, and its conversion to and from a checkpoint."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mnist_cnn_train.training import log
from mnist_cnn_train.training.averaging import WeightAverage
from mnist_cnn_train.training.log import EpochLog
from mnist_cnn_train.training.sampling import EpochSampler


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes during training; `restore` is the inverse of `tensors`."""

    network: nn.Module
    average: WeightAverage
    optimizer: Optimizer
    schedule: LambdaLR
    sampler: EpochSampler
    log: list[EpochLog] = field(default_factory=list)

    def step(self) -> None:
        """Take one step of the optimizer, the schedule and the average."""
        self.optimizer.step()
        self.schedule.step()
        self.average.update()

    def _modules(self) -> dict[str, nn.Module]:
        averaged = self.average.averaged
        modules: dict[str, nn.Module] = {"network": self.network}
        return modules | ({"averaged": averaged} if averaged else {})

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors, by name."""
        found = {
            f"{prefix}.{name}": tensor
            for prefix, module in self._modules().items()
            for name, tensor in module.state_dict().items()
        }
        for place, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{place}.{name}": value for name, value in moments.items()}
        found["steps"] = torch.tensor(self.schedule.last_epoch)
        found["order"] = self.sampler.generator.get_state()
        found["dropout"] = _generator_of(self.sampler.sample_losses.device).get_state()
        found["sample_losses"] = self.sampler.sample_losses
        found["log"] = log.to_tensor(self.log)
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the whole state from `tensors`."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            prefix, _, rest = name.partition(".")
            parts[prefix][rest] = tensor
        for prefix, module in self._modules().items():
            module.load_state_dict(parts[prefix])
        self._restore_optimizer(parts["optimizer"], int(tensors["steps"]))
        self.sampler.generator.set_state(tensors["order"])
        _generator_of(self.sampler.sample_losses.device).set_state(tensors["dropout"])
        self.sampler.sample_losses.copy_(tensors["sample_losses"])
        self.log[:] = log.from_tensor(tensors["log"])

    def _restore_optimizer(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        parameters = [one for group in self.optimizer.param_groups for one in group["params"]]
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            place, _, moment = name.partition(".")
            like = parameters[int(place)]
            if tensor.shape == like.shape:
                # Fused optimizers need moments with the memory layout of their parameter.
                tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
            moments[int(place)][moment] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": dict(moments)})
        self.schedule.last_epoch = steps
        for group, rate, factor in zip(
            self.optimizer.param_groups,
            self.schedule.base_lrs,
            self.schedule.lr_lambdas,
            strict=True,
        ):
            group["lr"] = rate * factor(steps)


def _generator_of(device: torch.device) -> torch.Generator:
    """Return torch's default generator for `device`, which dropout draws from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator
