"""Image corruptions for training robust networks.

Each corruption takes a batch of images and a severity for each, and keeps their shape. Those of
`TRAINING` are for training, those of `evaluation.held_out.HELD_OUT` only for choosing a recipe; the
two groups have no method in common. All were made for this project; none comes from a benchmark.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mnist_cnn.core.mnist import IMAGE_SIZE
from mnist_cnn_train.transforms.affine import affine_matrices, warp


class BatchRng:
    """Random numbers for one batch of n images, of shape ``[n, 1, 1, 1]`` unless noted."""

    def __init__(self, images: Tensor, key: Sequence[int]) -> None:
        """Draw for `images`, on their device; the same key gives the same numbers on any device."""
        self._count, self._device = len(images), images.device
        self._rng = np.random.default_rng(key)
        sides = torch.arange(IMAGE_SIZE, dtype=torch.float32, device=self._device)
        self.rows, self.columns = sides.reshape(1, 1, -1, 1), sides.reshape(1, 1, 1, -1)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw floats, one per image or, with `shape`, of shape ``[n, *shape]``."""
        drawn = self._rng.random((self._count, *(shape or (1, 1, 1))), np.float32)
        return torch.from_numpy(low + (high - low) * drawn).to(self._device)

    def normal(self, *shape: int) -> Tensor:
        """Draw normally distributed numbers with mean 0 and standard deviation 1."""
        drawn = self._rng.standard_normal((self._count, *(shape or (1, 1, 1))), np.float32)
        return torch.from_numpy(drawn).to(self._device)

    def chance(self, probability: float = 0.5) -> Tensor:
        """Return True for each image with probability `probability`."""
        return self.uniform(0, 1) < probability

    def across(self, angle: Tensor) -> Tensor:
        """Return each pixel's distance from the center in direction `angle`; 0.5 at the edge."""
        side = IMAGE_SIZE - 1
        x, y = self.columns / side - 0.5, self.rows / side - 0.5
        return torch.cos(angle) * x + torch.sin(angle) * y

    def field(self, cells: int) -> Tensor:
        """Draw a smooth random field, from 0 to 1, with about `cells` bumps along a side."""
        coarse = self.uniform(0, 1, 1, cells + 1, cells + 1)
        size = (IMAGE_SIZE, IMAGE_SIZE)
        fine = functional.interpolate(coarse, size, mode="bicubic", align_corners=True)
        return fine.clamp(0, 1)


# From images, float [n, 1, 28, 28] in [0, 1], and severities in (0, 1], [n, 1, 1, 1].
Corruption = Callable[[Tensor, Tensor, BatchRng], Tensor]
IMAGE_SHAPE = (1, IMAGE_SIZE, IMAGE_SIZE)


def shift(images: Tensor, rng: BatchRng, right: Tensor, down: Tensor) -> Tensor:
    """Take each pixel from `right` and `down` pixels away, with bilinear interpolation."""
    x = (2 * (rng.columns + right) + 1) / IMAGE_SIZE - 1
    y = (2 * (rng.rows + down) + 1) / IMAGE_SIZE - 1
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1).squeeze(1)
    grid = grid.expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, align_corners=False)


def blend(images: Tensor, mask: Tensor, level: Tensor) -> Tensor:
    """Return `images` where `mask` is 0, and `level` where it is 1."""
    return images * (1 - mask) + level * mask


def _segment(
    rng: BatchRng, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], width: Tensor
) -> Tensor:
    """Draw a straight line segment, 1 on it and 0 off it."""
    (x1, y1), (x2, y2) = start, end
    dx, dy = x2 - x1, y2 - y1
    along = ((rng.columns - x1) * dx + (rng.rows - y1) * dy) / (dx**2 + dy**2 + 1e-6)
    along = along.clamp(0, 1)
    # Not the root of a sum of squares: rounding of `sqrt` depends on the processor's vendor.
    distance = torch.hypot(rng.columns - x1 - along * dx, rng.rows - y1 - along * dy)
    return (width / 2 + 0.5 - distance).clamp(0, 1)


def grain(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Add Gaussian noise, uniform or stronger where there is ink."""
    where = torch.where(rng.chance(0.7), 1.0, 0.2 + images)
    return images + 0.6 * severity * where * rng.normal(*IMAGE_SHAPE)


def specks(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Turn single pixels white or black."""
    spots = rng.uniform(0, 1, *IMAGE_SHAPE) < 0.4 * severity
    return torch.where(spots, rng.uniform(0, 1, *IMAGE_SHAPE).round(), images)


def soften(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Apply a Gaussian blur; half of the time, restore the contrast."""
    sigma = 0.3 + 2.2 * severity
    offsets = torch.arange(-6.0, 7.0, device=images.device)
    weights = (-(offsets**2) / (2 * sigma.reshape(-1, 1) ** 2)).exp()
    weights = weights / weights.sum(dim=1, keepdim=True)
    soft = images.transpose(0, 1)
    for shape, padding in (((-1, 1, 13, 1), (6, 0)), ((-1, 1, 1, 13), (0, 6))):
        soft = functional.conv2d(soft, weights.reshape(shape), padding=padding, groups=len(images))
    soft = soft.transpose(0, 1)
    top = soft.amax((2, 3), keepdim=True).clamp_min(0.05)
    return torch.where(rng.chance(), soft, soft / top)


def shake(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Apply motion blur along a line."""
    angle, length = rng.uniform(0, math.pi), 2 + 9 * severity
    right, down = torch.cos(angle) * length, torch.sin(angle) * length
    steps = torch.linspace(-0.5, 0.5, 7).tolist()
    seen = [shift(images, rng, right * step, down * step) for step in steps]
    return torch.stack(seen).mean(dim=0)


def expose(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Change brightness, contrast and gamma."""
    contrast = 1 + severity * rng.uniform(-0.85, 0.6)
    brightness = severity * rng.uniform(-0.3, 0.85)
    return images.clamp_min(0) ** (4 ** (severity * rng.uniform(-1, 1))) * contrast + brightness


def mist(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Put light clouds, coarse and fine, in front of the digit."""
    cloud = 0.6 * rng.field(3) + 0.3 * rng.field(6) + 0.2 * rng.field(13)
    thick = severity * rng.uniform(0.5, 1.2) * cloud
    return torch.where(rng.chance(), images + thick, blend(images, thick.clamp(0, 0.9), cloud))


def illuminate(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Add light that falls off in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    across = rng.across(angle)
    return images * (1 - 0.5 * severity * (across + 0.5)) + severity * (across + 0.5)


def invert(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Swap ink and paper in a strip or beyond a straight edge."""
    angle, place = rng.uniform(0, 2 * math.pi), rng.uniform(-0.6, 0.3)
    across = rng.across(angle)
    width = 0.1 + 1.2 * severity * rng.uniform(0, 1)
    part = (across > place) & ((across < place + width) | rng.chance())
    strength = 0.4 + 0.6 * rng.uniform(0, 1)
    return torch.where(part, strength - images * (2 * strength - 1), images)


def scratch(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Draw one to five strokes in any shade, separate or joined, some dotted."""
    corrupted = images
    level = torch.where(rng.chance(0.8), 1.0, rng.uniform(0, 1))
    width = 0.5 + 2 * severity * rng.uniform(0, 1)
    joined, dotted = rng.chance(), rng.chance(0.3)
    period = rng.uniform(2, 6)
    x1, y1 = rng.uniform(-4, 32), rng.uniform(-4, 32)
    for number in range(5):
        x2, y2 = rng.uniform(-4, 32), rng.uniform(-4, 32)
        line = _segment(rng, (x1, y1), (x2, y2), width)
        gaps = ((rng.columns + rng.rows) % period < period / 2) | ~dotted
        drawn = line * gaps * (5 * severity > number)
        corrupted = torch.maximum(corrupted, drawn * level)
        x1 = torch.where(joined, x2, rng.uniform(-4, 32))
        y1 = torch.where(joined, y2, rng.uniform(-4, 32))
    return corrupted


def cover(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Cover a part with a rectangle of one shade."""
    height, width = (2 + 10 * severity * rng.uniform(0.3, 1) for _ in range(2))
    top, left = rng.uniform(-2, 26), rng.uniform(-2, 26)
    inside = (
        (rng.rows >= top)
        & (rng.rows < top + height)
        & (rng.columns >= left)
        & (rng.columns < left + width)
    )
    return torch.where(inside, torch.where(rng.chance(), rng.uniform(0, 1), 0.0), images)


def spill(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Add drops of ink or water of random shapes."""
    field = 0.7 * rng.field(8) + 0.5 * rng.field(14)
    drops = ((field - (0.95 - 0.3 * severity)) * 10).clamp(0, 1)
    return blend(images, drops, torch.where(rng.chance(0.6), rng.uniform(0.5, 1), 0.0))


def bend(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Apply an elastic distortion (P. Simard et al., 2003)."""
    right, down = ((rng.field(5) - 0.5) * 9 * severity for _ in range(2))
    return shift(images, rng, right, down)


def tilt(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Rotate, shear, translate and scale beyond what occurs in handwriting."""
    strength = severity.flatten()

    def drawn(most: float) -> Tensor:
        return rng.uniform(-most, most).flatten() * strength

    matrices = affine_matrices(
        rotation=drawn(0.8),
        shear=drawn(0.7),
        translation=torch.stack([drawn(0.2), drawn(0.2)], dim=1),
        scale=torch.exp(drawn(0.5)),
    )
    return warp(images, matrices)


def outline(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Keep only the edges of the strokes."""
    size = 3
    thick = functional.max_pool2d(images, size, 1, size // 2)
    thin = -functional.max_pool2d(-images, size, 1, size // 2)
    inner, outer = images - thin, thick - images
    edges = torch.where(rng.chance(), torch.where(rng.chance(), inner, outer), thick - thin)
    sharp = torch.where(rng.chance(), (edges > 0.4).float(), edges)
    return blend(images, (0.4 + severity).clamp(0, 1), sharp)


def jumble(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Take each pixel from a random place nearby, as if seen through frosted glass."""
    right, down = (rng.normal(*IMAGE_SHAPE) * 1.6 * severity for _ in range(2))
    return shift(images, rng, right, down)


def patches(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Invert parts of random shapes by a random degree; halfway, they turn uniformly gray."""
    part = ((rng.field(4) - rng.uniform(0.4, 0.6)) * 20).clamp(0, 1)
    return blend(images, part * severity * rng.uniform(0.3, 1), 1 - images)


def grating(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Add parallel bars or waves of light, of any width and direction, over or behind the digit."""
    along = rng.across(rng.uniform(0, math.pi)) * rng.uniform(1, 9)
    wave = torch.sin(2 * math.pi * (along + rng.uniform(0, 1)))
    light = torch.where(rng.chance(), (6 * wave).clamp(-1, 1), wave) / 2 + 0.5
    light = light * severity * rng.uniform(0.3, 1)
    return torch.where(rng.chance(), images + light, torch.maximum(images, light))


def curls(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Draw one to three curved strokes (parabolas) of ink or paper."""
    corrupted, pieces = images, 8
    level = torch.where(rng.chance(0.8), rng.uniform(0.4, 1), 0.0)
    for number in range(3):
        x, y = ([rng.uniform(-6, 34) for _ in range(3)] for _ in range(2))
        width = rng.uniform(0.5, 2.5)
        points = [
            tuple(
                (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
                for start, middle, end in (x, y)
            )
            for t in (place / pieces for place in range(pieces + 1))
        ]
        for (x1, y1), (x2, y2) in pairwise(points):
            line = _segment(rng, (x1, y1), (x2, y2), width)
            corrupted = blend(corrupted, line * (3 * severity > number), level)
    return corrupted


def sway(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Displace rows or columns, like a page that moves while it is scanned."""

    def pushed() -> Tensor:
        bends = rng.uniform(-1, 1, 1, 7)
        way = functional.interpolate(bends, IMAGE_SIZE, mode="linear", align_corners=True)
        return 4 * severity * way.unsqueeze(1)

    right, down = pushed().transpose(2, 3), pushed()
    rows, both = rng.chance(), rng.chance(0.3)
    return shift(
        images, rng, torch.where(rows | both, right, 0.0), torch.where(~rows | both, down, 0.0)
    )


def coarse(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Downscale to a few pixels, and enlarge smoothly."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    sides = (20, 16, 13, 11, 9)
    place = (severity * len(sides)).ceil().clamp(1, len(sides)) - 1
    done = images
    for index, side in enumerate(sides):
        small = functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        done = torch.where(
            place == index, functional.interpolate(small, size, mode="bicubic"), done
        )
    return done


def faint(images: Tensor, severity: Tensor, rng: BatchRng) -> Tensor:
    """Reduce the contrast, dark on light or light on dark, and add sensor noise."""
    contrast = 1 - 0.85 * severity
    level = 0.8 * severity * rng.uniform(0, 1) + torch.where(rng.chance(0.3), contrast, 0.0)
    ink = contrast * torch.where(rng.chance(), images, -images)
    return level + ink + 0.12 * severity * rng.normal(*IMAGE_SHAPE)


TRAINING: Mapping[str, Corruption] = {
    one.__name__: one
    for one in (
        *(grain, specks, soften, shake, expose, mist, illuminate, invert),
        *(scratch, cover, spill, bend, tilt, outline, jumble),
        *(patches, grating, curls, sway, coarse, faint),
    )
}


def corrupt(images: Tensor, corruption: Corruption, severity: Tensor, key: Sequence[int]) -> Tensor:
    """Apply `corruption` to `images`, float ``[n, 1, 28, 28]`` in [0, 1]; clamp to that range."""
    return corruption(images, severity.reshape(-1, 1, 1, 1), BatchRng(images, key)).clamp(0, 1)


def to_pixels(images: Tensor) -> Tensor:
    """Convert to uint8 ``[n, 28, 28]``, rounded; the inverse of `to_input`."""
    return (255 * images).round().to(torch.uint8).squeeze(1)


def corrupt_batch(images: Tensor, fraction: float, key: Sequence[int]) -> Tensor:
    """Corrupt about a `fraction` of `images`, as for `corrupt`, by one of `TRAINING` each.

    Then corrupt about 0.3 * `fraction` of all images, corrupted or not, once more. Kinds and
    severities are drawn uniformly.
    """
    rng = np.random.default_rng(key)
    for turn, odds in enumerate((fraction, 0.3 * fraction)):
        corrupted = rng.random(len(images)) < odds
        kinds = np.where(corrupted, rng.integers(len(TRAINING), size=len(images)), -1)
        severity = torch.from_numpy(rng.random(len(images), np.float32)).to(images.device)
        images = images.clone()
        for kind, corruption in enumerate(TRAINING.values()):
            chosen = torch.from_numpy(np.flatnonzero(kinds == kind)).to(images.device)
            if len(chosen):
                images[chosen] = corrupt(
                    images[chosen], corruption, severity[chosen], (*key, turn, kind)
                )
    return images
