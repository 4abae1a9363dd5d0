"""Gradients of one batch on several threads of this process."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from torch import Tensor, nn

# The mean loss of some images, given by their indices, through a copy of the network.
Loss = Callable[[nn.Module, Tensor], Tensor]


class ThreadedGradients:
    """Splits each batch among threads, and adds up their gradients.

    For networks of a few thousand weights, an operation of torch is too small to be worth
    splitting over cores. Here, each thread takes its shard of the batch through a copy of the
    network that has the same weights, but gradients and batch statistics of its own: it
    normalizes by its shard alone, and `network` keeps the running statistics of the first (E.
    Hoffer et al., "Train longer, generalize better", 2017). Gradients are added in a fixed
    order, so that the result is the same, to the bit, however the threads run.

    Operations that draw from torch's global generator are not repeatable on several threads.
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
        """Set the gradients of the network to those of its mean `loss` over a batch.

        Args:
            loss: called on the threads, once for each shard of `chosen`.
            chosen: indices of the images of the batch, int64 ``[n]``.

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
