"""The training images as an epoch shows them: augmented, or as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist_cnn_train.model.networks import to_input
from mnist_cnn_train.pipeline.params import Train
from mnist_cnn_train.transforms.affine import sample_distortions, warp
from mnist_cnn_train.transforms.corruptions import corrupt_batch, to_pixels

# Many enough to be quick, few enough for the memory.
CORRUPTED_AT_ONCE = 2_500


@dataclass(frozen=True)
class EpochImages:
    """All training images in one epoch.

    Attributes:
        pixels: uint8 ``[n, 28, 28]``.
        distortions: the matrix that each is drawn through, float ``[n, 2, 3]``; None for none.
    """

    pixels: Tensor
    distortions: Tensor | None = None

    def to_input(self, chosen: Tensor | slice) -> Tensor:
        """The network's input, float ``[m, 1, 28, 28]`` in [0, 1], of the images `chosen`."""
        batch = to_input(self.pixels[chosen])
        return batch if self.distortions is None else warp(batch, self.distortions[chosen])

    def corrupted(self, fraction: float, key: Sequence[int]) -> "EpochImages":
        """These, distorted, and then a `fraction` of them corrupted, as `key` draws."""
        pixels = torch.empty_like(self.pixels)
        for start in range(0, len(pixels), CORRUPTED_AT_ONCE):
            part = slice(start, start + CORRUPTED_AT_ONCE)
            batch = corrupt_batch(self.to_input(part), fraction, (*key, start))
            pixels[part] = to_pixels(batch)
        return EpochImages(pixels)


def epoch_images(pixels: Tensor, recipe: Train, epoch: int) -> EpochImages:
    """The images `pixels`, uint8 ``[n, 28, 28]``, as the `epoch`, from 1, shows them.

    They depend on the seed, the epoch and the place of each image alone.
    """
    augmentation = recipe.augmentation
    if epoch > recipe.epochs - recipe.unaugmented_epochs:
        return EpochImages(pixels)
    key = (recipe.seed, epoch)
    images = EpochImages(pixels)
    if not augmentation.distorts_nothing:
        distortions = sample_distortions(len(pixels), augmentation, key).to(pixels.device)
        images = EpochImages(pixels, distortions)
    return images.corrupted(augmentation.corruption, key) if augmentation.corruption else images
