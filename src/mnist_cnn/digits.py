"""MNIST in memory: the IDX files, and the split into training and validation images.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits".
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from mnist_cnn.artifacts import sha256
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.mnist_files import SHA256, TEST_FILES, TRAINING_FILES

IMAGE_SIZE = 28
LABELS = tuple("0123456789")

# Mean and standard deviation of all pixels of the 60,000 training images, scaled to [0, 1].
PIXEL_MEAN = 0.1307
PIXEL_STD = 0.3081


@dataclass(frozen=True)
class Digits:
    """Pictures of digits with their labels.

    Attributes:
        images: uint8 ``[n, 28, 28]``, 0 is paper and 255 is ink.
        labels: int64 ``[n]``, each from 0 to 9.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels])
        )

    def take(self, indices: npt.NDArray[np.int64]) -> Self:
        """The digits at `indices`, int64 ``[m]``, in that order."""
        return type(self)(self.images[indices], self.labels[indices])


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read a file of unsigned bytes in the IDX format, with as many axes as it states.

    Source: the format's description on the MNIST page: two zero bytes, the type (0x08 is
    unsigned byte), the number of axes, each axis's length as a big-endian 32-bit integer,
    then the values, the last axis changing fastest.

    Raises:
        MnistCnnError: it is not IDX, or it is shorter or longer than its header states.
        OSError: the file cannot be read.
    """
    content = np.fromfile(path, np.uint8)
    if len(content) < 4 or content[:3].tobytes() != b"\x00\x00\x08":
        raise MnistCnnError(f"{path} is not an IDX file of unsigned bytes; download it again")
    axes = int(content[3])
    start = 4 + 4 * axes
    if len(content) < start:
        raise MnistCnnError(f"{path} ends within its header; download it again")
    shape = struct.unpack(f">{axes}I", content[4:start].tobytes())
    if len(content) - start != math.prod(shape):
        raise MnistCnnError(
            f"{path} holds {len(content) - start:,} values, but its header states "
            f"{' x '.join(map(str, shape))}; download it again"
        )
    try:
        return content[start:].reshape(shape)
    except ValueError:  # no values, along axes that are too many or too long for an array
        raise MnistCnnError(f"{path} states axes that no array has; download it again") from None


def read_digits(images_path: Path, labels_path: Path) -> Digits:
    """Read images and their labels from two IDX files, whatever their checksums.

    Raises:
        MnistCnnError: what `read_idx` raises, or the two are no images of digits with labels.
        OSError: a file cannot be read.
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE) or not len(images):
        raise MnistCnnError(f"{images_path} holds no {IMAGE_SIZE}x{IMAGE_SIZE} images")
    if labels.shape != images.shape[:1]:
        raise MnistCnnError(f"{labels_path} does not hold one label for each image")
    if labels.max() >= len(LABELS):
        raise MnistCnnError(f"{labels_path} holds the label {labels.max()}, which is no digit")
    return Digits(images, labels.astype(np.int64))


def read_training_digits(folder: Path) -> Digits:
    """The 60,000 digits to learn from.

    Raises:
        MnistCnnError: a file is missing, or is not what was published, to the bit.
        OSError: a file cannot be read.
    """
    return _read_published(folder, TRAINING_FILES)


def read_test_digits(folder: Path) -> Digits:
    """The 10,000 digits to be judged by; raises what `read_training_digits` raises."""
    return _read_published(folder, TEST_FILES)


def _read_published(folder: Path, names: tuple[str, str]) -> Digits:
    for name in names:
        path = folder / name
        if not path.is_file():
            raise MnistCnnError(f"there is no {path}; run `dvc repro download`")
        if sha256(path) != SHA256[name]:
            raise MnistCnnError(
                f"{path} is damaged: its SHA-256 is not the published one; run `make mend`"
            )
    return read_digits(*(folder / name for name in names))


def stratified_split(
    digits: Digits, train_images: int, validation_images: int, seed: int
) -> tuple[Digits, Digits]:
    """Draw disjoint training and validation digits, each with the class shares of `digits`.

    The number of images of a class differs from its exact share by less than one image in
    the validation part, and by less than two in the training part.

    Raises:
        MnistCnnError: more images are asked for than there are.
    """
    if train_images + validation_images > len(digits):
        raise MnistCnnError(
            f"data.split asks for {train_images:,} training and {validation_images:,} validation "
            f"images, but there are {len(digits):,}; lower one of them in params.yaml"
        )
    shuffled = np.random.default_rng(seed).permutation(len(digits))
    # Shuffled within each class, so evenly spaced picks take the same share of every class.
    by_class = shuffled[np.argsort(digits.labels[shuffled], kind="stable")]
    picks = _evenly_spaced(validation_images, len(by_class))
    validation, rest = by_class[picks], np.delete(by_class, picks)
    training = rest[_evenly_spaced(train_images, len(rest))]
    return digits.take(training), digits.take(validation)


def _evenly_spaced(count: int, length: int) -> npt.NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) * length // count
