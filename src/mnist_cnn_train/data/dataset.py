"""MNIST or a similar dataset in memory.

Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits".
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import replacing, sha256
from mnist_cnn.core.mnist import IMAGE_SIZE, LABELS
from mnist_cnn_train.data.catalog import (
    TEST_FILES,
    TRAINING_FILES,
    Description,
    read_description,
    write_description,
)
from mnist_cnn_train.data.idx import read_idx, to_idx


@dataclass(frozen=True)
class Dataset:
    """Images with their labels.

    Attributes:
        images: uint8 ``[n, 28, 28]``, 0 is paper and 255 is ink.
        labels: int64 ``[n]``, indices into `names`.
        names: class names, in the order of the network's outputs.
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
        """Return the images at `indices`, int64 ``[m]``, in that order."""
        return type(self)(self.images[indices], self.labels[indices], self.names)


def read_digits(images_path: Path, labels_path: Path, names: tuple[str, ...] = LABELS) -> Dataset:
    """Read images and labels from two IDX files without checking their checksums.

    Raises:
        MnistCnnError: if a file is not valid IDX, or does not hold 28x28 images or their labels.
        OSError: if a file cannot be read.
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
    return Dataset(images.astype(np.uint8, copy=False), labels.astype(np.int64), names)


def read_training_digits(folder: Path) -> Dataset:
    """Read the training images, including those for validation; 60,000 for MNIST.

    Raises:
        MnistCnnError: if a file is missing or its checksum is wrong.
        OSError: if a file cannot be read.
    """
    return _read_checked(folder, TRAINING_FILES)


def read_synthetic_images(folder: Path) -> Dataset | None:
    """Return the synthetic images in `folder`; None if there are none.

    Images that are not digits have the label 10. Raises the errors of `read_training_digits`.
    """
    images, _ = TRAINING_FILES
    return read_training_digits(folder) if len(read_idx(folder / images)) else None


def read_test_digits(folder: Path) -> Dataset:
    """Read the test images, 10,000 for MNIST; raises what `read_training_digits` raises."""
    return _read_checked(folder, TEST_FILES)


def _read_checked(folder: Path, files: tuple[str, str]) -> Dataset:
    description = read_description(folder)
    for name in files:
        path = folder / name
        if not path.is_file():
            raise MnistCnnError(f"there is no {path}; run `dvc repro download`")
        if sha256(path) != description.sha256.get(name):
            raise MnistCnnError(
                f"{path} is damaged: its SHA-256 is not the published one; run `make repair`"
            )
    images, labels = (folder / name for name in files)
    return read_digits(images, labels, description.names)


def write_dataset(
    name: str,
    classes: tuple[str, ...],
    values: Mapping[str, npt.NDArray[Any]],
    destination: Path,
) -> None:
    """Write `values`, by file name, and their description to `destination`, whole or not at all.

    Values are uint8, or other integers, which become 32-bit.

    Raises:
        OSError: if `destination` cannot be written.
    """
    with replacing(destination) as folder:
        folder.mkdir()
        sums = {}
        for file, array in values.items():
            content = to_idx(array)
            (folder / file).write_bytes(content)
            sums[file] = hashlib.sha256(content).hexdigest()
        write_description(folder, Description(name, classes, sums))
