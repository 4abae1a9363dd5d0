"""Gradients of one batch, computed on several threads of this process."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from torch import Tensor, nn

# Returns the mean loss of a network on the images with the given indices.
Loss = Callable[[nn.Module, Tensor], Tensor]


class ThreadedGradients:
    """Splits each batch among threads, and adds up their gradients.

    With a few thousand weights, a torch operation is too small to be split over cores. Instead,
    each thread runs its shard of the batch through a copy of the network, which shares the weights
    but has its own gradients and batch statistics. Batch norm thus uses the statistics of a shard,
    and `network` keeps the running statistics of the first (E. Hoffer et al., "Train longer,
    generalize better", 2017). Gradients are added in a fixed order, so the result is identical to
    the bit however the threads are scheduled.

    Operations that draw from torch's global generator are not reproducible on several threads.
    """

    def __init__(self, network: nn.Module, threads: int) -> None:
        """Split the batches of `network`, which is in training mode, among `threads`."""
        self._copies = [network, *(_copy(network) for _ in range(threads - 1))]
        self._pool = ThreadPoolExecutor(max(1, threads - 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def backward(self, loss: Loss, chosen: Tensor) -> Tensor:
        """Set the network's gradients to those of its mean `loss` over a batch.

        Args:
            loss: called on the threads, once for each shard of `chosen`.
            chosen: indices of the batch's images, int64 ``[n]``.

        Returns:
            The mean loss, detached.
        """

        def work(network: nn.Module, shard: Tensor) -> Tensor:
            network.zero_grad()
            value = loss(network, shard) * (len(shard) / len(chosen))
            value.backward()
            return value.detach()

        shards = chosen.chunk(len(self._copies))
        others = [
            self._pool.submit(work, network, shard)
            for network, shard in zip(self._copies[1:], shards[1:], strict=False)
        ]
        first, *copies = self._copies
        total = work(first, shards[0])
        for network, other in zip(copies, others, strict=False):
            total = total + other.result()
            for own, added in zip(first.parameters(), network.parameters(), strict=True):
                if own.grad is not None and added.grad is not None:
                    own.grad.add_(added.grad)
        return total


def _copy(network: nn.Module) -> nn.Module:
    twin = copy.deepcopy(network)
    for own, shared in zip(twin.parameters(), network.parameters(), strict=True):
        own.data = shared.data
    return twin
