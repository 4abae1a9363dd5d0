"""MNIST in memory, or a data set like it: the IDX files, and the split.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits".
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mnist_cnn.artifacts import sha256
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.mnist_files import DESCRIPTION, SHA256, TEST_FILES, TRAINING_FILES

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
        labels: int64 ``[n]``, each the place of its class among `names`.
        names: of the classes, in the order of the network's outputs.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...] = LABELS

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.labels, other.labels]),
            self.names,
        )

    def take(self, indices: npt.NDArray[np.int64]) -> Self:
        """The digits at `indices`, int64 ``[m]``, in that order."""
        return type(self)(self.images[indices], self.labels[indices], self.names)


@dataclass(frozen=True)
class Description:
    """What a folder of four IDX files holds.

    Attributes:
        dataset: its name in `data.dataset`.
        names: of the classes, in the order of the labels.
        sha256: of each file.
    """

    dataset: str
    names: tuple[str, ...]
    sha256: dict[str, str]


MNIST = Description("mnist", LABELS, SHA256)


def read_description(folder: Path) -> Description:
    """What the download noted of the files in `folder`; where it noted nothing, it is MNIST.

    Raises:
        MnistCnnError: the note is damaged.
        OSError: it cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return MNIST
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        found = Description(noted["dataset"], tuple(noted["names"]), dict(noted["sha256"]))
    except (ValueError, KeyError, TypeError):
        raise MnistCnnError(f"{path} is damaged; run `make mend`") from None
    return MNIST if found.dataset == MNIST.dataset else found  # by the published sums


# What a value is, by the third byte of a file.
TYPES: dict[int, np.dtype[np.uint8 | np.int32]] = {8: np.dtype(np.uint8), 12: np.dtype(">i4")}


def read_idx(path: Path) -> npt.NDArray[np.uint8 | np.int32]:
    """Read a file in the IDX format; raises what `parse_idx` raises, or OSError."""
    return parse_idx(np.fromfile(path, np.uint8), str(path))


def parse_idx(content: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8 | np.int32]:
    """The values of an IDX file of bytes or 32-bit integers, with as many axes as it states.

    Source: the format's description on the MNIST page: two zero bytes, the type (0x08 is unsigned
    byte, 0x0C is int), the number of axes, each axis's length as a big-endian 32-bit integer, then
    the values, big-endian, the last axis changing fastest.

    Raises:
        MnistCnnError: `name` is not IDX, or it is shorter or longer than its header states.
    """
    if len(content) < 4 or content[:2].any() or int(content[2]) not in TYPES:
        raise MnistCnnError(f"{name} is not an IDX file of bytes or integers; download it again")
    kind, axes = TYPES[int(content[2])], int(content[3])
    start = 4 + 4 * axes
    if len(content) < start:
        raise MnistCnnError(f"{name} ends within its header; download it again")
    shape = struct.unpack(f">{axes}I", content[4:start].tobytes())
    if len(content) - start != math.prod(shape) * kind.itemsize:
        raise MnistCnnError(
            f"{name} holds {(len(content) - start) // kind.itemsize:,} values, but its header "
            f"states {' x '.join(map(str, shape))}; download it again"
        )
    try:
        return content[start:].view(kind).reshape(shape)
    except ValueError:  # no values, along axes that are too many or too long for an array
        raise MnistCnnError(f"{name} states axes that no array has; download it again") from None


def to_idx(values: npt.NDArray[Any]) -> bytes:
    """The inverse of `parse_idx`: integers that are no bytes become 32-bit ones."""
    code = 8 if values.dtype == np.uint8 else 12
    header = struct.pack(f">4B{values.ndim}I", 0, 0, code, values.ndim, *values.shape)
    return header + values.astype(TYPES[code]).tobytes()


def read_digits(images_path: Path, labels_path: Path, names: tuple[str, ...] = LABELS) -> Digits:
    """Read images and their labels from two IDX files, whatever their checksums.

    Raises:
        MnistCnnError: what `read_idx` raises, or the two are no images of digits with labels.
        OSError: a file cannot be read.
    """
    images, labels = read_idx(images_path), read_idx(labels_path)
    if (
        images.dtype != np.uint8
        or images.ndim != 3
        or images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE)
        or not len(images)
    ):
        raise MnistCnnError(f"{images_path} holds no {IMAGE_SIZE}x{IMAGE_SIZE} images")
    if labels.shape != images.shape[:1]:
        raise MnistCnnError(f"{labels_path} does not hold one label for each image")
    strange = labels[(labels < 0) | (labels >= len(names))]
    if len(strange):
        raise MnistCnnError(
            f"{labels_path} holds the label {strange[0]}, which is none of {len(names)} classes"
        )
    return Digits(images.astype(np.uint8, copy=False), labels.astype(np.int64), names)


def read_training_digits(folder: Path) -> Digits:
    """The digits to learn from; 60,000 of MNIST.

    Raises:
        MnistCnnError: a file is missing, or is not what was published, or downloaded, to the bit.
        OSError: a file cannot be read.
    """
    return _read_checked(folder, TRAINING_FILES)


def read_test_digits(folder: Path) -> Digits:
    """The digits to be judged by, 10,000 of MNIST; raises what `read_training_digits` raises."""
    return _read_checked(folder, TEST_FILES)


def _read_checked(folder: Path, files: tuple[str, str]) -> Digits:
    description = read_description(folder)
    for name in files:
        path = folder / name
        if not path.is_file():
            raise MnistCnnError(f"there is no {path}; run `dvc repro download`")
        if sha256(path) != description.sha256.get(name):
            raise MnistCnnError(
                f"{path} is damaged: its SHA-256 is not the published one; run `make mend`"
            )
    images, labels = (folder / name for name in files)
    return read_digits(images, labels, description.names)


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
