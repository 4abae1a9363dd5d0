"""The networks, from pixels to logits: 8,890 parameters, or 9,802."""

import torch
from torch import Tensor, nn

from mnist_cnn.digits import LABELS, PIXEL_MEAN, PIXEL_STD
from mnist_cnn.params import Model


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs)]


def _block(inputs: int, outputs: int) -> nn.Sequential:
    # ReLU and max-pool commute exactly; after the pool, ReLU has a quarter of the work.
    return nn.Sequential(*_convolution(inputs, outputs), nn.MaxPool2d(2), nn.ReLU(inplace=True))


def _pooled(inputs: int, outputs: int) -> list[nn.Module]:
    convolution, norm = _convolution(inputs, outputs)
    return [convolution, nn.MaxPool2d(2), norm, nn.ReLU(inplace=True)]


def _normalise(images: Tensor) -> Tensor:
    return (images - PIXEL_MEAN) / PIXEL_STD


class DigitCNN(nn.Module):
    """Three convolutions and a linear layer.

    | layer       | output       | parameters         |
    | ----------- | ------------ | ------------------ |
    | block 1     | 8 x 14 x 14  | 80 + 16            |
    | block 2     | 16 x 7 x 7   | 1,168 + 32         |
    | block 3     | 32 x 3 x 3   | 4,640 + 64         |
    | classifier  | 10           | 2,890              |

    A block is convolution, batch norm, ReLU and max-pool; its parameters are those of the
    convolution and of the batch norm.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        """Draw initial weights from torch's global generator.

        Args:
            dropout: probability with which each of the last 32 channels is zeroed in training.
        """
        super().__init__()
        self.block1 = _block(1, 8)
        self.block2 = _block(8, 16)
        self.block3 = _block(16, 32)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Linear(32 * 3 * 3, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float ``[n, 10]``, of `images`, float ``[n, 1, 28, 28]`` in [0, 1]."""
        features = self.block3(self.block2(self.block1(_normalise(images))))
        logits: Tensor = self.classifier(self.dropout(features).flatten(1))
        return logits


class DeepDigitCNN(nn.Module):
    """Five narrow convolutions, which read better than three within 9,999 parameters.

    | layer          | output       | parameters         |
    | -------------- | ------------ | ------------------ |
    | convolution 1  | 8 x 14 x 14  | 80 + 16            |
    | convolution 2  | 16 x 14 x 14 | 1,168 + 32         |
    | convolution 3  | 16 x 7 x 7   | 2,320 + 32         |
    | convolution 4  | 16 x 7 x 7   | 2,320 + 32         |
    | convolution 5  | 16 x 3 x 3   | 2,320 + 32         |
    | classifier     | 10           | 1,450              |

    9,802 in all. Each convolution is followed by batch norm and ReLU, and where the output
    shrinks, by a max-pool before them, which leaves them a quarter of the work.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        """Draw initial weights from torch's global generator.

        Args:
            dropout: probability with which each of the last 16 channels is zeroed in training.
        """
        super().__init__()
        self.features = nn.Sequential(
            *_pooled(1, 8),
            *_convolution(8, 16),
            nn.ReLU(inplace=True),
            *_pooled(16, 16),
            *_convolution(16, 16),
            nn.ReLU(inplace=True),
            *_pooled(16, 16),
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Linear(16 * 3 * 3, len(LABELS))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float ``[n, 10]``, of `images`, float ``[n, 1, 28, 28]`` in [0, 1]."""
        features = self.dropout(self.features(_normalise(images)))
        logits: Tensor = self.classifier(features.flatten(1))
        return logits


ARCHITECTURES: dict[str, type[DigitCNN | DeepDigitCNN]] = {"base": DigitCNN, "deep": DeepDigitCNN}


def build(model: Model) -> nn.Module:
    """The network that `model` describes, with initial weights from torch's global generator."""
    return ARCHITECTURES[model.architecture](model.dropout)


def to_input(pixels: Tensor) -> Tensor:
    """The network's input, float ``[n, 1, 28, 28]`` in [0, 1], of uint8 ``[n, 28, 28]``."""
    return pixels.unsqueeze(1).float() / 255


@torch.inference_mode()
def predict_logits(network: nn.Module, pixels: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits, float ``[n, 10]``, of `pixels`, uint8 ``[n, 28, 28]``, on their device.

    The network is left in evaluation mode.
    """
    network.eval()
    return torch.cat([network(to_input(batch)) for batch in pixels.split(batch_size)])
