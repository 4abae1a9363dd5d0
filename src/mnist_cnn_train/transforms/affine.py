"""Random affine distortions of a whole batch, on its device."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnist_cnn_train.pipeline.params import Augmentation


def affine_matrices(rotation: Tensor, shear: Tensor, translation: Tensor, scale: Tensor) -> Tensor:
    """Return the output-to-input coordinate maps that rotate, shear, scale, then translate images.

    The signs of angles are those of `torchvision.transforms.functional.affine`.

    Args:
        rotation: radians, clockwise, ``[n]``.
        shear: radians, along x, ``[n]``.
        translation: fractions of the image's side, x then y, ``[n, 2]``.
        scale: ``[n]``.

    Returns:
        ``[n, 2, 3]`` for `torch.nn.functional.affine_grid`, in coordinates from -1 to 1 across the
        image.
    """
    cos, sin = torch.cos(rotation), torch.sin(rotation)
    tan = torch.tan(shear)
    # The inverse of rotation · shear, whose determinant is 1.
    linear = torch.stack(
        [
            torch.stack([cos - sin * tan, sin + cos * tan], dim=1),
            torch.stack([-sin, cos], dim=1),
        ],
        dim=1,
    ) / scale.reshape(-1, 1, 1)
    offset = -linear @ (2 * translation).unsqueeze(2)
    return torch.cat([linear, offset], dim=2)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Warp `images`, float ``[n, 1, h, w]``, by `matrices`, ``[n, 2, 3]``.

    Interpolation is bilinear; pixels from outside the image are 0, which is paper.
    """
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def sample_distortions(count: int, ranges: Augmentation, key: Sequence[int]) -> Tensor:
    """Sample matrices for `warp`, float ``[count, 2, 3]``: a random distortion for each image.

    Args:
        count: number of images.
        ranges: half-widths of the ranges of each distortion.
        key: seed of nonnegative integers. The same key gives the same distortions, whatever the
            device, the batches and the order in which images are used.
    """
    drawn = 2 * np.random.default_rng(key).random((5, count), np.float32) - 1
    rotation, shear, across, down, zoom = torch.from_numpy(drawn)
    return affine_matrices(
        rotation=rotation * math.radians(ranges.rotation),
        shear=shear * math.radians(ranges.shear),
        translation=torch.stack([across, down], dim=1) * ranges.translation,
        scale=1 + zoom * ranges.scale,
    )
