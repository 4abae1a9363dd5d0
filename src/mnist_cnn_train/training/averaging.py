"""The exponential moving average (EMA) of the weights, which evaluates better than the last."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Follows the weights of a network.

    Attributes:
        averaged: a copy with the averaged weights, and the number of steps; None without EMA.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Average the weights of `network` with a `decay` per step; 0 for no EMA."""
        self._followed = network
        self.averaged: AveragedModel | None = None
        if decay:
            # Batch statistics are averaged like the weights, so that the two belong together.
            average = get_ema_multi_avg_fn(decay)
            self.averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """What to evaluate: the copy with the averaged weights; without EMA, the network itself."""
        return self.averaged.module if self.averaged else self._followed

    def update(self) -> None:
        """Take in the weights that the optimizer has just set."""
        if self.averaged:
            self.averaged.update_parameters(self._followed)
