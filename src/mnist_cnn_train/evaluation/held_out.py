"""Corruptions that no network is trained on, to evaluate robustness."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mnist_cnn.core.mnist import IMAGE_SIZE
from mnist_cnn_train.transforms.corruptions import IMAGE_SHAPE, BatchRng, Corruption, blend, shift


def threshold(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Binarize at a threshold far from the middle."""
    level = 0.5 + 0.45 * severity * torch.where(rng.chance(), 1.0, -1.0)
    return (images > level).float()


def pixelate(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Replace large squares by their mean."""
    sizes = (18, 14, 11, 9, 7)
    place = (severity * len(sizes)).ceil().long().clamp(1, len(sizes)) - 1
    done = images
    for index, size in enumerate(sizes):
        small = functional.interpolate(images, (size, size), mode="area")
        large = functional.interpolate(small, (IMAGE_SIZE, IMAGE_SIZE), mode="nearest")
        done = torch.where(place == index, large, done)
    return done


def thin(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Thin the strokes, until they break."""
    eroded = -functional.max_pool2d(-images, 2, 1, 1)[:, :, :-1, :-1]
    further = -functional.max_pool2d(-eroded, 2, 1, 1)[:, :, 1:, 1:]
    return torch.where(severity > 0.6, blend(eroded, 0.5 * severity, further), eroded)


def thicken(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Thicken the strokes, until holes close."""
    wide = functional.max_pool2d(images, 3, 1, 1)
    wider = functional.max_pool2d(images, 5, 1, 2)
    return torch.where(severity > 0.5, blend(wide, severity - 0.3, wider), wide)


def ruled(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Add the printed lines or squares of ruled paper."""
    period, phase = rng.uniform(4, 9), rng.uniform(0, 9)
    rows = ((rng.rows + phase) % period < 1).float()
    columns = ((rng.columns + phase) % period < 1).float()
    lines = torch.maximum(rows, columns * rng.chance()).expand(-1, -1, IMAGE_SIZE, IMAGE_SIZE)
    return torch.maximum(images, lines * (0.2 + 0.8 * severity))


def ripple(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Displace rows and columns by sine waves, as if seen through water."""
    length, phase = rng.uniform(6, 16), rng.uniform(0, 6.28)
    right = 2.5 * severity * torch.sin(6.28 * rng.rows / length + phase)
    down = 2.5 * severity * torch.sin(6.28 * rng.columns / length + phase)
    return shift(images, rng, right, down)


def recede(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Apply perspective, with one edge farther away."""
    angle = rng.uniform(0, 2 * math.pi)
    x, y = rng.columns - 13.5, rng.rows - 13.5
    depth = 1 + severity * 0.7 * (torch.cos(angle) * x + torch.sin(angle) * y) / 13.5
    return shift(images, rng, x * (depth - 1), y * (depth - 1))


def shade(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Brighten the paper on one side of a straight edge, as a hard shadow or a window does."""
    angle, place = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3)
    across = rng.across(angle)
    return torch.where(across > place, images * (1 - 0.6 * severity) + 0.55 * severity, images)


def checker(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Partially invert alternate squares."""
    side = rng.uniform(4, 10)
    squares = ((rng.rows / side).floor() + (rng.columns / side).floor()) % 2
    return images + squares * 0.8 * severity * (1 - 2 * images)


def rings(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Add one or two ring stains of a cup."""
    corrupted = images
    for number in range(2):
        x, y, radius = rng.uniform(0, 28), rng.uniform(0, 28), rng.uniform(5, 14)
        distance = torch.hypot(rng.columns - x, rng.rows - y)
        ring = (1.5 - (distance - radius).abs()).clamp(0, 1) * (0.4 + 0.6 * severity)
        corrupted = torch.where(
            (severity > 0.5) | (number == 0), torch.maximum(corrupted, ring), corrupted
        )
    return corrupted


def confetti(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Add dots of a few pixels in random shades."""
    corrupted = images
    for number in range(12):
        x, y = rng.uniform(0, 28), rng.uniform(0, 28)
        radius, level = rng.uniform(0.5, 1.8), rng.uniform(0, 1)
        near = (rng.columns - x) ** 2 + (rng.rows - y) ** 2 < radius**2
        corrupted = torch.where(near & (12 * severity > number), level, corrupted)
    return corrupted


def fade(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Fade the ink on grainy paper."""
    paper = 0.08 * rng.normal(*IMAGE_SHAPE)
    return 0.3 + (1.05 - severity) * 0.6 * images + paper


HELD_OUT: Mapping[str, Corruption] = {
    one.__name__: one
    for one in (
        *(threshold, pixelate, thin, thicken, ruled, ripple),
        *(recede, shade, checker, rings, confetti, fade),
    )
}
