"""Corruptions that no network is trained on, to evaluate robustness by."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mnist_cnn.core.mnist import IMAGE_SIZE
from mnist_cnn_train.transforms.corruptions import PIXELS, Corruption, Draw, _blend, _moved

# Held out


def threshold(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Few shades, with a threshold that is far off."""
    level = 0.5 + 0.45 * severity * torch.where(draw.chance(), 1.0, -1.0)
    return (images > level).float()


def pixelate(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Large squares of one shade."""
    sizes = (18, 14, 11, 9, 7)
    place = (severity * len(sizes)).ceil().long().clamp(1, len(sizes)) - 1
    done = images
    for index, size in enumerate(sizes):
        small = functional.interpolate(images, (size, size), mode="area")
        large = functional.interpolate(small, (IMAGE_SIZE, IMAGE_SIZE), mode="nearest")
        done = torch.where(place == index, large, done)
    return done


def thin(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Strokes as of a finer pen, down to broken ones."""
    eroded = -functional.max_pool2d(-images, 2, 1, 1)[:, :, :-1, :-1]
    further = -functional.max_pool2d(-eroded, 2, 1, 1)[:, :, 1:, 1:]
    return torch.where(severity > 0.6, _blend(eroded, 0.5 * severity, further), eroded)


def thicken(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Strokes as of a broad pen, in which holes close."""
    wide = functional.max_pool2d(images, 3, 1, 1)
    wider = functional.max_pool2d(images, 5, 1, 2)
    return torch.where(severity > 0.5, _blend(wide, severity - 0.3, wider), wide)


def ruled(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Paper with printed lines or squares."""
    period, phase = draw.uniform(4, 9), draw.uniform(0, 9)
    rows = ((draw.rows + phase) % period < 1).float()
    columns = ((draw.columns + phase) % period < 1).float()
    lines = torch.maximum(rows, columns * draw.chance()).expand(-1, -1, IMAGE_SIZE, IMAGE_SIZE)
    return torch.maximum(images, lines * (0.2 + 0.8 * severity))


def ripple(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """As seen through water: rows and columns move like waves."""
    length, phase = draw.uniform(6, 16), draw.uniform(0, 6.28)
    right = 2.5 * severity * torch.sin(6.28 * draw.rows / length + phase)
    down = 2.5 * severity * torch.sin(6.28 * draw.columns / length + phase)
    return _moved(images, draw, right, down)


def recede(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Seen from the side: one edge is farther away."""
    angle = draw.uniform(0, 2 * math.pi)
    x, y = draw.columns - 13.5, draw.rows - 13.5
    depth = 1 + severity * 0.7 * (torch.cos(angle) * x + torch.sin(angle) * y) / 13.5
    return _moved(images, draw, x * (depth - 1), y * (depth - 1))


def shade(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """A hard shadow or a bright window falls on a part of the paper."""
    angle, place = draw.uniform(0, 2 * math.pi), draw.uniform(-0.3, 0.3)
    across = draw.across(angle)
    return torch.where(across > place, images * (1 - 0.6 * severity) + 0.55 * severity, images)


def chequer(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Alternate squares are inverted in part."""
    side = draw.uniform(4, 10)
    squares = ((draw.rows / side).floor() + (draw.columns / side).floor()) % 2
    return images + squares * 0.8 * severity * (1 - 2 * images)


def rings(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """The stain of a cup, or two."""
    struck = images
    for number in range(2):
        x, y, radius = draw.uniform(0, 28), draw.uniform(0, 28), draw.uniform(5, 14)
        distance = torch.hypot(draw.columns - x, draw.rows - y)
        ring = (1.5 - (distance - radius).abs()).clamp(0, 1) * (0.4 + 0.6 * severity)
        struck = torch.where((severity > 0.5) | (number == 0), torch.maximum(struck, ring), struck)
    return struck


def confetti(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Dots of a few pixels in all shades."""
    struck = images
    for number in range(12):
        x, y = draw.uniform(0, 28), draw.uniform(0, 28)
        radius, level = draw.uniform(0.5, 1.8), draw.uniform(0, 1)
        near = (draw.columns - x) ** 2 + (draw.rows - y) ** 2 < radius**2
        struck = torch.where(near & (12 * severity > number), level, struck)
    return struck


def fade(images: Tensor, severity: Tensor, draw: Draw) -> Tensor:
    """Ink that is nearly gone, on paper with a grain."""
    paper = 0.08 * draw.normal(*PIXELS)
    return 0.3 + (1.05 - severity) * 0.6 * images + paper


HELD_OUT: Mapping[str, Corruption] = {
    one.__name__: one
    for one in (
        *(threshold, pixelate, thin, thicken, ruled, ripple),
        *(recede, shade, chequer, rings, confetti, fade),
    )
}
