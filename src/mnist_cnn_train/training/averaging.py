"""Exponential moving average (EMA) of the weights, which is more accurate than the last weights."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Averages the weights of a network over training steps.

    Attributes:
        averaged: a copy with the averaged weights and the number of steps; None without EMA.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Average the weights of `network` with a `decay` per step; 0 for no EMA."""
        self._followed = network
        self.averaged: AveragedModel | None = None
        if decay:
            # Average batch norm's statistics too, so that they match the weights.
            average = get_ema_multi_avg_fn(decay)
            self.averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True)

    @property
    def network(self) -> nn.Module:
        """Network to evaluate: the averaged copy or, without EMA, the network itself."""
        return self.averaged.module if self.averaged else self._followed

    def update(self) -> None:
        """Update the average after an optimizer step."""
        if self.averaged:
            self.averaged.update_parameters(self._followed)
