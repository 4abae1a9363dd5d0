"""Networks from pixels to logits, with 8,890 (in two layer orders), 9,802 or 9,875 parameters."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_cnn.core.mnist import IMAGE_SIZE, LABELS, PIXEL_MEAN, PIXEL_STD
from mnist_cnn_train.pipeline.params import Model

# Test-time augmentation: shifts down and right, in pixels, of which the first `tta_views` are used:
# none, then to the four sides, then diagonally.
SHIFTS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1))

# Added to an image's variance, so that the noise of a blank image is not amplified.
MIN_VARIANCE = 1e-3


class DigitNetwork(nn.Module, ABC):
    """Base class of the networks: convolutions and a linear layer.

    In evaluation mode, the logits of several views of an image, each shifted by up to a pixel, are
    averaged (test-time augmentation). This adds no parameters and does not slow down training.
    """

    channels: int  # output channels of the convolutions, of 3 x 3 each

    def __init__(
        self,
        dropout: float = 0.0,
        tta_views: int = 1,
        normalization: str = "fixed",
        classes: int = len(LABELS),
    ) -> None:
        """Initialize the weights from torch's global generator.

        Args:
            dropout: probability of zeroing each of the last channels in training.
            tta_views: number of `SHIFTS` to average.
            normalization: ``fixed``, by the mean and standard deviation of MNIST's pixels, or
                ``image``, by those of each image, for invariance to brightness and contrast.
            classes: number of logits.
        """
        super().__init__()
        self.features = nn.Sequential(*self._layers())
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Linear(self.channels * 3 * 3, classes)
        self.tta_views = tta_views
        self.normalization = normalization

    @abstractmethod
    def _layers(self) -> list[nn.Module]:
        """Create the layers from one channel of 28 x 28 to `channels` of 3 x 3."""

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float ``[n, classes]``, of float ``[n, 1, 28, 28]`` in [0, 1]."""
        if self.training or self.tta_views == 1:
            return self._logits(images)
        paper = functional.pad(images, (1, 1, 1, 1))
        views = [
            paper[:, :, 1 - down :, 1 - right :][:, :, :IMAGE_SIZE, :IMAGE_SIZE]
            for down, right in SHIFTS[: self.tta_views]
        ]
        logits = self._logits(torch.cat(views))
        return logits.reshape(self.tta_views, -1, logits.shape[1]).mean(dim=0)

    def _logits(self, images: Tensor) -> Tensor:
        normalized = self._normalized(images)
        logits: Tensor = self.classifier(self.dropout(self.features(normalized)).flatten(1))
        return logits

    def _normalized(self, images: Tensor) -> Tensor:
        if self.normalization == "fixed":
            return (images - PIXEL_MEAN) / PIXEL_STD
        centered = images - images.mean((2, 3), keepdim=True)
        variance = centered.square().mean((2, 3), keepdim=True)
        # Not `sqrt`, whose rounding depends on the processor's vendor.
        return centered * (variance + MIN_VARIANCE).rsqrt()


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs)]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    # ReLU and max-pool commute exactly; after max-pool, ReLU has a quarter of the work.
    return nn.Sequential(*_convolution(inputs, outputs), nn.MaxPool2d(2), nn.ReLU(inplace=True))


def _pooled(inputs: int, outputs: int) -> list[nn.Module]:
    convolution, norm = _convolution(inputs, outputs)
    return [convolution, nn.MaxPool2d(2), norm, nn.ReLU(inplace=True)]


class DigitCNN(DigitNetwork):
    """Three convolutions and a linear layer.

    | layer       | output       | parameters         |
    | ----------- | ------------ | ------------------ |
    | block 1     | 8 x 14 x 14  | 80 + 16            |
    | block 2     | 16 x 7 x 7   | 1,168 + 32         |
    | block 3     | 32 x 3 x 3   | 4,640 + 64         |
    | classifier  | 10           | 2,890              |

    Each block is a convolution, batch norm, max-pool and ReLU; the parameters are those of the
    convolution and of batch norm.
    """

    channels = 32

    def _layers(self) -> list[nn.Module]:
        return [_block(1, 8), _block(8, 16), _block(16, 32)]


class FastDigitCNN(DigitNetwork):
    """The same 8,890 parameters as `DigitCNN`, with less computation.

    - Batch norm comes after max-pool, where it has a quarter of the work. That is a different
      function, since the two do not commute; the order is that of K. Jordan, "94% on CIFAR-10 in
      3.29 seconds on a single GPU" (2024).
    - Two pixels are cropped on each side, which are usually paper, since MNIST's digits were scaled
      to 20 x 20. 24 pixels halve to 12, 6 and 3; of 28, 14 and 7, the last max-pool drops a row and
      a column.
    """

    channels = 32

    def _layers(self) -> list[nn.Module]:
        return [*_pooled(1, 8), *_pooled(8, 16), *_pooled(16, 32)]

    def _logits(self, images: Tensor) -> Tensor:
        return super()._logits(images[:, :, 2:-2, 2:-2])


class DeepDigitCNN(DigitNetwork):
    """Five narrow convolutions, more accurate than three with fewer than 10,000 parameters.

    | layer          | output       | parameters         |
    | -------------- | ------------ | ------------------ |
    | convolution 1  | 8 x 14 x 14  | 80 + 16            |
    | convolution 2  | 16 x 14 x 14 | 1,168 + 32         |
    | convolution 3  | 16 x 7 x 7   | 2,320 + 32         |
    | convolution 4  | 16 x 7 x 7   | 2,320 + 32         |
    | convolution 5  | 16 x 3 x 3   | 2,320 + 32         |
    | classifier     | 10           | 1,450              |

    9,802 in total. Each convolution is followed by batch norm and ReLU. Where the output shrinks,
    max-pool comes before them, which leaves them a quarter of the work.
    """

    channels = 16

    def _layers(self) -> list[nn.Module]:
        return [
            *_pooled(1, 8),
            *_convolution(8, 16),
            nn.ReLU(inplace=True),
            *_pooled(16, 16),
            *_convolution(16, 16),
            nn.ReLU(inplace=True),
            *_pooled(16, 16),
        ]


class Contrast(nn.Conv2d):
    """Convolution with absolute value: responds to an edge whichever side is darker."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the absolute value of what `nn.Conv2d` returns."""
        return super().forward(images).abs()


class ReaderCNN(DigitNetwork):
    """`DeepDigitCNN` for pictures of all kinds: edges count equally in both directions.

    If light, fog or a stripe inverts the contrast of the image or of a part, the absolute value
    after the first convolution gives the same features.

    | layer          | output       | parameters         |
    | -------------- | ------------ | ------------------ |
    | convolution 1  | 8 x 14 x 14  | 72 + 16            |
    | convolution 2  | 16 x 14 x 14 | 1,152 + 32         |
    | convolution 3  | 16 x 7 x 7   | 2,304 + 32         |
    | convolution 4  | 16 x 7 x 7   | 2,304 + 32         |
    | convolution 5  | 16 x 3 x 3   | 2,304 + 32         |
    | classifier     | 11           | 1,595              |

    9,875 in total, with an eleventh output for images that are not digits. Convolutions have no
    bias, which the batch norm after them would cancel.
    """

    channels = 16

    def _layers(self) -> list[nn.Module]:
        return [
            *(Contrast(1, 8, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(8)),
            *_unbiased(8, 16),
            *_unbiased(16, 16, pool=True),
            *_unbiased(16, 16),
            *_unbiased(16, 16, pool=True),
        ]


def _unbiased(inputs: int, outputs: int, pool: bool = False) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    pools = [nn.MaxPool2d(2)] if pool else []
    return [convolution, *pools, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


ARCHITECTURES: dict[str, type[DigitNetwork]] = {
    "base": DigitCNN,
    "fast": FastDigitCNN,
    "deep": DeepDigitCNN,
    "reader": ReaderCNN,
}


def build(model: Model, classes: int = len(LABELS)) -> DigitNetwork:
    """Build the network that `model` describes, initialized from torch's global generator.

    It has a logit for each of `classes`, and with `model.not_a_digit` a last one for the rest.
    """
    classes += model.not_a_digit
    architecture = ARCHITECTURES[model.architecture]
    return architecture(model.dropout, model.tta_views, model.normalization, classes)


def to_input(pixels: Tensor) -> Tensor:
    """Convert uint8 ``[n, 28, 28]`` to the network's input, float ``[n, 1, 28, 28]`` in [0, 1]."""
    return pixels.unsqueeze(1).float() / 255


@torch.inference_mode()
def predict_logits(network: nn.Module, pixels: Tensor, batch_size: int = 1000) -> Tensor:
    """Return logits, float ``[n, classes]``, of `pixels`, uint8 ``[n, 28, 28]``, on their device.

    The network is left in evaluation mode.
    """
    network.eval()
    return torch.cat([network(to_input(batch)) for batch in pixels.split(batch_size)])
