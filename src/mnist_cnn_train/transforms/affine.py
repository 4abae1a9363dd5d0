"""Random distortions of a whole batch at once, on whatever device it lies."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnist_cnn_train.pipeline.params import Augmentation


def affine_matrices(rotation: Tensor, shear: Tensor, translation: Tensor, scale: Tensor) -> Tensor:
    """The maps from output to input coordinates that rotate, shear, scale, then move images.

    The angles have the sense of `torchvision.transforms.functional.affine`.

    Args:
        rotation: radians, clockwise, ``[n]``.
        shear: radians, along x, ``[n]``.
        translation: in shares of the image's side, x then y, ``[n, 2]``.
        scale: ``[n]``.

    Returns:
        ``[n, 2, 3]``, in coordinates that run from -1 to 1 across the image, as
        `torch.nn.functional.affine_grid` takes them.
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
    """Draw `images`, float ``[n, 1, h, w]``, through `matrices`, ``[n, 2, 3]``.

    Bilinear; what lies outside the image is 0, which is paper.
    """
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def sample_distortions(count: int, ranges: Augmentation, key: Sequence[int]) -> Tensor:
    """Matrices for `warp`, float ``[count, 2, 3]``: a random distortion for each of `count` images.

    Args:
        count: how many.
        ranges: how far each distortion goes.
        key: whole numbers, at least 0. The same key draws the same distortions, whatever the
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
