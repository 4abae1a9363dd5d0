"""Training by several processes, on one host or many, each with its share of every batch."""

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.training.parallel import Loss

# How long a process waits for the others, which may have to read their images first.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class ProcessGroup:
    """All the processes that train one network, as one of them sees them.

    Attributes:
        rank: which one this is, from 0.
        count: how many there are.
        local_rank: which one on its host, from 0; its GPU has this number.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def share(self, chosen: Tensor) -> Tensor:
        """This process's part of `chosen`; where there are too few to share, all of them."""
        if len(chosen) < self.count:
            return chosen
        return chosen.tensor_split(self.count)[self.rank]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of every process's `tensor`, which is replaced by it."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_from_leader(self, value: Any) -> Any:
        """What the leader has as `value`."""
        told = [value]
        if self.count > 1:
            dist.broadcast_object_list(told)
        return told[0]


SINGLE_PROCESS = ProcessGroup()


def in_torchrun() -> bool:
    """Whether torchrun started this process, as one of several or as the only one."""
    return dist.is_torchelastic_launched()


def launch(command: Sequence[str], processes: int) -> None:
    """Run Python's `command` in `processes` processes of this host by torchrun, until all ended.

    As to any torchrun, the environment may name further hosts: PET_NNODES, PET_NODE_RANK,
    PET_MASTER_ADDR and PET_MASTER_PORT.

    Raises:
        MnistCnnError: one of them failed or was killed; then the others are ended too.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # It tells of a failed process in a page, and we in a line.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process takes one core
    # On one host, any free port; else the leader's has to be known to the others.
    alone = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    where = [] if "PET_NNODES" in os.environ else alone
    arguments = parse_args([*where, "--nproc-per-node", str(processes), *command])
    try:
        run(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise MnistCnnError(
            f"process {rank} of the training {_ended(failure.exitcode)}, so the others were ended "
            "too; start again, once what it told is mended: it resumes after the last whole epoch"
        ) from None


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """What torchrun started this process as a part of; outside of it, `SINGLE_PROCESS`.

    Args:
        device: `train.device`. On GPUs the processes speak by NCCL, else by Gloo.

    Raises:
        MnistCnnError: within the block, another process was lost.
    """
    if not in_torchrun():
        yield SINGLE_PROCESS
        return
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=PATIENCE)
    processes = ProcessGroup(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
    try:
        yield processes
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise MnistCnnError(f"process {processes.rank} lost another one") from None
        raise
    finally:
        dist.destroy_process_group()


class DistributedGradients:
    """Splits each batch among processes, and adds up their gradients.

    They are those of one process that takes the whole batch, but for the order in which sums are
    rounded: batch norm takes the statistics of the whole batch, and each image counts alike,
    however many a process has.
    """

    def __init__(self, network: nn.Module, processes: ProcessGroup) -> None:
        """Share out the batches of `network`, whose batch norms `synchronize` has replaced."""
        self._processes = processes
        device = next(network.parameters()).device
        self._network = DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            forward_sync_buffers=False,  # every process has the statistics of the whole batch
        )

    def backward(self, loss: Loss, chosen: Tensor) -> Tensor:
        """Set the gradients of the network to those of its mean `loss` over a batch.

        Args:
            loss: called once, for this process's share of `chosen`.
            chosen: indices of the images of the batch, int64 ``[n]``, alike in all processes.

        Returns:
            The mean loss over the whole batch, detached.
        """
        processes = self._processes
        share = processes.share(chosen)
        self._network.zero_grad()
        # Gradients are averaged over the processes, of which the last may have fewer images.
        even = max(len(chosen) / processes.count, 1)
        weight = len(share) / even if len(share) < len(chosen) else 1.0
        value = loss(self._network, share) * weight
        value.backward()
        return processes.all_reduce(value.detach()) / processes.count


def gather(values: Tensor, batches: Sequence[Tensor], processes: ProcessGroup) -> None:
    """Give every process what each has set in `values`, at least 0, for its shares of `batches`."""
    if processes.count == 1:
        return
    every, own = torch.cat(list(batches)), torch.cat([processes.share(one) for one in batches])
    found = torch.zeros_like(values)
    found[own] = values[own]
    dist.all_reduce(found, dist.ReduceOp.MAX)
    values[every] = found[every]


def synchronize(network: nn.Module, processes: ProcessGroup) -> None:
    """Let the batch norms of `network` take the statistics of all processes' shares.

    Their parameters stay the same objects, of the same names.
    """
    if processes.count == 1:
        return
    if next(network.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for module in list(network.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, SynchronizedBatchNorm.of(norm))


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """What `torch.nn.SyncBatchNorm` is on GPUs, which refuses to run on CPUs.

    In training, the mean and the variance are those of the images of all processes.
    """

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Self:
        """One with the parameters of `norm`, and with its statistics."""
        twin = cls(norm.num_features, norm.eps, norm.momentum).to(norm.weight)
        twin.load_state_dict(norm.state_dict())
        twin.weight, twin.bias = norm.weight, norm.bias
        return twin

    def forward(self, images: Tensor) -> Tensor:
        """Normalize `images`, float ``[n, c, h, w]``."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(images)
        images = images.to(self.weight.dtype)  # which a network in bf16 keeps in fp32
        with torch.no_grad():
            mean, variance, count = _statistics(images, around=self.running_mean)
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        normalized: Tensor = _Normalized.apply(
            images, self.weight, self.bias, mean, variance, count, self.eps
        )
        return normalized


def _statistics(images: Tensor, around: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each channel over all processes, and of how many values.

    Sums are taken `around` a point near the mean, which loses the fewest digits.
    """
    variance, mean = torch.var_mean(images, (0, 2, 3), correction=0)
    count = images.new_full((1,), images.numel() / images.shape[1])
    away = mean - around
    sums = torch.cat([count * away, count * (variance + away.square()), count])
    dist.all_reduce(sums)
    first, second, total = sums.split([len(mean), len(mean), 1])
    away = first / total
    return around + away, (second / total - away.square()).clamp_min(0), total


class _Normalized(torch.autograd.Function):
    """Batch norm by statistics of all processes, and its gradient, which takes sums of them all."""

    @staticmethod
    def forward(
        context: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        context.save_for_backward(images, weight, mean, variance, count)
        context.eps = eps
        return functional.batch_norm(images, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        images, weight, mean, variance, count = context.saved_tensors
        # As if the statistics were constants; then what they add, since they are not.
        direct, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], images, weight, mean, variance, None, None, False, context.eps, [True] * 3
        )
        sums = torch.cat([to_weight, to_bias])
        dist.all_reduce(sums)
        by_weight, by_bias = (sums / count).chunk(2)
        scale = (variance + context.eps).rsqrt()
        slope = weight * scale.square() * by_weight
        offset = weight * scale * by_bias - slope * mean
        indirect = torch.addcmul(offset[:, None, None], images, slope[:, None, None])
        return direct - indirect, to_weight, to_bias, None, None, None, None
