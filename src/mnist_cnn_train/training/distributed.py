"""Distributed training: several processes on one or more hosts, each on its shard of a batch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.training.parallel import Loss
from mnist_cnn_train.training.torchrun import in_torchrun


@dataclass(frozen=True)
class ProcessGroup:
    """The `count` processes that train one network; this one is number `rank`, from 0."""

    rank: int = 0
    count: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Return the leader's `value` in all processes."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values)
        return values[0]


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the process group that torchrun started; without torchrun, yield `SINGLE_PROCESS`.

    If `device` (`train.device`) means CUDA, each process of a host uses its own GPU.

    Raises:
        MnistCnnError: if there is no GPU for this process, or the block loses another process.
    """
    if not in_torchrun():
        yield SINGLE_PROCESS
        return
    on_gpus = device != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available())
    if on_gpus:
        _take_gpu(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpus else "gloo")
    group = ProcessGroup(dist.get_rank(), dist.get_world_size())
    try:
        yield group
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise MnistCnnError(f"process {group.rank} lost another one") from None
        raise
    finally:
        dist.destroy_process_group()


def _take_gpu(local_rank: int) -> None:
    if local_rank >= (gpus := torch.cuda.device_count()):
        raise MnistCnnError(
            f"train.processes is above {gpus}, the number of CUDA devices of this machine; lower "
            "it, or set train.device to cpu, in params.yaml"
        )
    torch.cuda.set_device(local_rank)


class DistributedGradients:
    """Splits each batch among processes, and averages gradients and running statistics.

    On GPUs, batch norm uses the statistics of the whole batch. On CPUs, it uses those of each
    process's shard, as `ThreadedGradients` does, which amounts to smaller batches for batch norm.
    """

    def __init__(self, network: nn.Module, processes: ProcessGroup) -> None:
        """Split the batches of `network`; on GPUs, replace its batch norms by `SyncBatchNorm`."""
        self._processes = processes
        if next(network.parameters()).is_cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)  # keeps the parameters
        self._statistics = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self._network = DistributedDataParallel(network, broadcast_buffers=False)

    def backward(self, loss: Loss, chosen: Tensor) -> Tensor:
        """Set the network's gradients to those of its mean `loss` over a batch.

        Args:
            loss: called once, for this process's shard of `chosen`.
            chosen: indices of the batch's images, int64 ``[n]``, the same in all processes.

        Returns:
            The mean loss, detached.
        """
        count = self._processes.count
        shard, weight = chosen, 1.0  # if the batch is too small to split, each process takes it all
        if len(chosen) >= count:
            shard = chosen.tensor_split(count)[self._processes.rank]
            weight = len(shard) * count / len(chosen)
        self._network.zero_grad()
        value = loss(self._network, shard) * weight
        value.backward()
        total = value.detach()
        _average([total, *self._statistics], count)
        return total


def _average(tensors: list[Tensor], count: int) -> None:
    """Replace each of `tensors` by its mean over the `count` processes."""
    sums = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(sums)
    means = (sums / count).split([tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view_as(tensor))
