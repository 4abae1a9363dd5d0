"""The network: 8,890 parameters from pixels to logits."""

import torch
from torch import Tensor, nn

from mnist_cnn.digits import LABELS, PIXEL_MEAN, PIXEL_STD


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


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
        features = (images - PIXEL_MEAN) / PIXEL_STD
        features = self.block3(self.block2(self.block1(features)))
        logits: Tensor = self.classifier(self.dropout(features).flatten(1))
        return logits


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
