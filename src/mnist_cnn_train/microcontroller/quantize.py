"""Quantize a network to 8-bit weights and activations, for integer arithmetic alone.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018; here without training.
"""

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.mnist import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.model.networks import DigitNetwork, FastDigitCNN, ReaderCNN

IMAGES = 2_000  # to find the range of activations
MAX_WEIGHT = 127
MAX_ACTIVATION = 255
MAX_BIAS = 2**24  # a sum of products is below it, too, so that both fit 32 bits
ZERO_PIXEL = round(255 * PIXEL_MEAN)  # the pixel closest to what normalization turns into 0

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class QuantizedLayer:
    """A convolution, max-pool and ReLU from uint8 ``[side, side, inputs]``.

    Attributes:
        weights: ``[outputs, 3, 3, inputs]``, each at most `MAX_WEIGHT` in size.
        biases: ``[outputs]``, added to sums of products.
        scales: ``[outputs]``, from sums to outputs, times 2^32.
        side: rows and columns of the input.
        pool: 1 if 2 x 2 max-pool halves the sides, else 0.
        zero: the input that stands for 0.
    """

    weights: Integers
    biases: Integers
    scales: Integers
    side: int
    pool: int
    zero: int


@dataclass(frozen=True)
class QuantizedNetwork:
    """Convolutions and a linear layer in integers.

    Attributes:
        layers: the convolutions; the first takes pixels.
        crop: pixels left out at each side of the image.
        weights: those of the linear layer, ``[classes, side, side, channels]``.
        biases: those of the linear layer, ``[classes]``.
        steps_per_logit: a logit of the float network, in integers.
    """

    layers: list[QuantizedLayer]
    crop: int
    weights: Integers
    biases: Integers
    steps_per_logit: int


@dataclass
class _Block:
    """A convolution, with normalization folded into it, and its max-pool."""

    convolution: nn.Conv2d
    pool: int = 0

    def __call__(self, values: Tensor) -> Tensor:
        pooled = functional.max_pool2d(self.convolution(values), 1 + self.pool)
        return functional.relu(pooled)


@torch.inference_mode()
def quantize(network: DigitNetwork, training: Dataset) -> QuantizedNetwork:
    """Quantize `network`, which is not changed.

    Args:
        network: of the architecture `base`, `fast` or `deep`.
        training: the largest activation of a layer for the first `IMAGES` of them becomes 255.

    Raises:
        MnistCnnError: if `network` computes something else than these layers.
    """
    _check(network, len(training.names))
    exact = deepcopy(network).cpu().double().eval()
    crop = 2 if isinstance(network, FastDigitCNN) else 0
    images = torch.from_numpy(training.images[:IMAGES])
    cropped = images[:, None, crop : IMAGE_SIZE - crop, crop : IMAGE_SIZE - crop]
    step = 1 / (255 * PIXEL_STD)
    values = (cropped.double() - 255 * PIXEL_MEAN) * step
    layers, zero = [], ZERO_PIXEL
    for block in _blocks(exact):
        side = values.shape[-1]
        values = block(values)
        # On the validation images, clipping the largest 0.001 to 1 % instead agrees no better.
        out = max(float(values.max()), 1e-9) / MAX_ACTIVATION
        layers.append(_quantize_block(block, side, zero, step, out))
        step, zero = out, 0
    return _with_classifier(layers, crop, exact.classifier, step, values.shape[-1])


def _check(network: DigitNetwork, classes: int) -> None:
    if isinstance(network, ReaderCNN):
        raise MnistCnnError(
            "the C header is for model.architecture base, fast or deep, not for reader"
        )
    if network.normalization != "fixed":
        raise MnistCnnError("the C header needs model.normalization: fixed")
    if network.classifier.out_features > classes:
        raise MnistCnnError("the C header needs model.not_a_digit: false")
    if network.tta_views > 1:
        raise MnistCnnError("the C header needs model.tta_views: 1")


def _blocks(network: DigitNetwork) -> list[_Block]:
    blocks: list[_Block] = []
    for layer in network.features.modules():
        match layer:
            case nn.Conv2d():
                blocks.append(_Block(layer))
            case nn.MaxPool2d():
                blocks[-1].pool = 1
            case nn.BatchNorm2d():
                # A positive factor commutes with max-pool.
                if blocks[-1].pool and (layer.weight <= 0).any():
                    raise MnistCnnError(
                        "the C header needs positive weights in batch norm after max-pool; "
                        "use model.architecture base, where batch norm comes first"
                    )
                blocks[-1].convolution = fuse_conv_bn_eval(blocks[-1].convolution, layer)
    return blocks


def _quantize_block(block: _Block, side: int, zero: int, step: float, out: float) -> QuantizedLayer:
    """Quantize `block`, from inputs in steps of `step`, 0 at `zero`, to outputs in steps of `out`.

    `side` is that of the input.
    """
    weights = _array(block.convolution.weight).transpose(0, 2, 3, 1)
    biases = _array(block.convolution.bias)
    largest = np.abs(weights).max(axis=(1, 2, 3))
    steps = _weight_steps(largest, biases, step)
    return QuantizedLayer(
        weights=_integers(weights / steps[:, None, None, None]),
        biases=_integers(biases / (steps * step)),
        scales=_integers(np.minimum(steps * step / out * 2**32, 2**32 - 1)),
        side=side,
        pool=block.pool,
        zero=zero,
    )


def _with_classifier(
    layers: list[QuantizedLayer], crop: int, linear: nn.Linear, step: float, side: int
) -> QuantizedNetwork:
    weights, biases = _array(linear.weight), _array(linear.bias)
    # One step for all classes, so that their logits can be compared.
    steps = _weight_steps(np.abs(weights).max(), np.abs(biases).max(), step)
    by_place = weights.reshape(len(biases), -1, side, side).transpose(0, 2, 3, 1)
    return QuantizedNetwork(
        layers=layers,
        crop=crop,
        weights=_integers(by_place / steps),
        biases=_integers(biases / (steps * step)),
        steps_per_logit=round(1 / float(steps * step)),
    )


def _weight_steps(largest: Floats, biases: Floats, step: float) -> Floats:
    """Return the steps in which weights and biases fit their integers."""
    least = np.maximum(np.abs(biases) / (step * MAX_BIAS), 1e-30)
    return np.maximum(largest / MAX_WEIGHT, least)


def _array(values: Tensor | None) -> Floats:
    assert values is not None  # noqa: S101
    array: Floats = values.detach().numpy()
    return array


def _integers(values: Floats) -> Integers:
    return np.rint(values).astype(np.int64)
