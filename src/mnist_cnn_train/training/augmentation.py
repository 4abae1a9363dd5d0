"""The training images of each epoch, with or without augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist_cnn_train.model.networks import to_input
from mnist_cnn_train.pipeline.params import Train
from mnist_cnn_train.transforms.affine import sample_distortions, warp
from mnist_cnn_train.transforms.corruptions import corrupt_batch, to_pixels

CORRUPTED_AT_ONCE = 2_500  # images: enough to be fast, and few enough for memory


@dataclass(frozen=True)
class EpochImages:
    """All training images of one epoch.

    Attributes:
        pixels: uint8 ``[n, 28, 28]``.
        distortions: affine matrix for each image, float ``[n, 2, 3]``; None for no distortion.
    """

    pixels: Tensor
    distortions: Tensor | None = None

    def to_input(self, chosen: Tensor | slice) -> Tensor:
        """Return the images `chosen` as the network's input, float ``[m, 1, 28, 28]`` in [0, 1]."""
        batch = to_input(self.pixels[chosen])
        return batch if self.distortions is None else warp(batch, self.distortions[chosen])

    def corrupted(self, fraction: float, key: Sequence[int]) -> "EpochImages":
        """Apply the distortions, then corrupt about a `fraction` of the images, seeded by `key`."""
        pixels = torch.empty_like(self.pixels)
        for start in range(0, len(pixels), CORRUPTED_AT_ONCE):
            part = slice(start, start + CORRUPTED_AT_ONCE)
            batch = corrupt_batch(self.to_input(part), fraction, (*key, start))
            pixels[part] = to_pixels(batch)
        return EpochImages(pixels)


def epoch_images(pixels: Tensor, recipe: Train, epoch: int) -> EpochImages:
    """Augment the images `pixels`, uint8 ``[n, 28, 28]``, for `epoch`, from 1.

    The result depends only on the images, the recipe, the epoch and each image's index.
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
