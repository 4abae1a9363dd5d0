"""Which images each epoch takes, and in which order."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from mnist_cnn_train.pipeline.params import Train


def epoch_sizes(images: int, recipe: Train) -> list[int]:
    """How many of `images` each epoch takes: all, then the hardest ones."""
    return [images, *[math.ceil(recipe.hard_example_fraction * images)] * (recipe.epochs - 1)]


class EpochSampler:
    """Splits each epoch's images into batches: first all, then those of the largest loss.

    Attributes:
        generator: draws the order of the images.
        sample_losses: each image's loss when it was last seen, float32 ``[images]``; 0 where every
            epoch takes all images, which needs no losses.
        steps: batches of the whole training.
    """

    def __init__(self, images: int, recipe: Train, device: torch.device) -> None:
        """Sample from `images` training images on `device`, by the seed of `recipe`."""
        self._sizes = epoch_sizes(images, recipe)
        self._batch_size = recipe.batch_size
        self._needs_losses = recipe.hard_example_fraction < 1
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.sample_losses = torch.zeros(images, device=device)
        self.steps = sum(math.ceil(size / recipe.batch_size) for size in self._sizes)

    def batches(self, epoch: int) -> tuple[Tensor, ...]:
        """The indices of the images of each batch of an epoch, from 1: int64 ``[n]``, shuffled."""
        size = self._sizes[epoch - 1]
        losses = self.sample_losses
        order = torch.randperm(size, generator=self.generator, device=losses.device)
        if size < len(losses):
            order = losses.topk(size).indices[order]
        batches: tuple[Tensor, ...] = order.split(self._batch_size)
        return batches

    def note(self, chosen: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keep the losses of the images `chosen`, by which later epochs choose.

        Threads may call this at once, for different images.

        Args:
            chosen: their indices, int64 ``[n]``.
            logits: float32 ``[n, classes]``.
            labels: int64 ``[n]``.
        """
        if self._needs_losses:
            losses = functional.cross_entropy(logits.detach(), labels, reduction="none")
            self.sample_losses[chosen] = losses
