"""Selection and order of the images in each epoch."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from mnist_cnn_train.pipeline.params import Train


def epoch_sizes(images: int, recipe: Train) -> list[int]:
    """Return how many of `images` each epoch uses: all, then a fraction of hard examples."""
    return [images, *[math.ceil(recipe.hard_example_fraction * images)] * (recipe.epochs - 1)]


class EpochSampler:
    """Splits each epoch's images into batches: all in the first epoch, then the hardest ones.

    Attributes:
        generator: random generator for the order of the images.
        sample_losses: each image's loss when last used, float32 ``[images]``; 0 if every epoch
            uses all images, which needs no losses.
        steps: number of batches in the whole training.
    """

    def __init__(self, images: int, recipe: Train, device: torch.device) -> None:
        """Sample from `images` training images on `device` with the seed of `recipe`."""
        self._sizes = epoch_sizes(images, recipe)
        self._batch_size = recipe.batch_size
        self._needs_losses = recipe.hard_example_fraction < 1
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.sample_losses = torch.zeros(images, device=device)
        self.steps = sum(math.ceil(size / recipe.batch_size) for size in self._sizes)

    def batches(self, epoch: int) -> tuple[Tensor, ...]:
        """Return the shuffled indices, int64 ``[n]``, of each batch of an `epoch`, from 1."""
        size = self._sizes[epoch - 1]
        losses = self.sample_losses
        order = torch.randperm(size, generator=self.generator, device=losses.device)
        if size < len(losses):
            order = losses.topk(size).indices[order]
        batches: tuple[Tensor, ...] = order.split(self._batch_size)
        return batches

    def note(self, chosen: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record the losses of the images `chosen`, by which later epochs choose.

        Threads may call this concurrently for different images.

        Args:
            chosen: indices of the images, int64 ``[n]``.
            logits: float32 ``[n, classes]``.
            labels: int64 ``[n]``.
        """
        if self._needs_losses:
            losses = functional.cross_entropy(logits.detach(), labels, reduction="none")
            self.sample_losses[chosen] = losses
