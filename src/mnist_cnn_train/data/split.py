"""The stratified split into training and validation images."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset, read_training_digits


class Split(Protocol):
    """The settings `data.split`."""

    @property
    def train_images(self) -> int: ...  # noqa: D102
    @property
    def validation_images(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def load_split(folder: Path, split: Split) -> tuple[Dataset, Dataset]:
    """Load the training and validation images of the dataset in `folder`.

    Raises:
        MnistCnnError: if `read_training_digits` or `stratified_split` raises it.
        OSError: if a file cannot be read.
    """
    digits = read_training_digits(folder)
    return stratified_split(digits, split.train_images, split.validation_images, split.seed)


def stratified_split(
    digits: Dataset, train_images: int, validation_images: int, seed: int
) -> tuple[Dataset, Dataset]:
    """Sample disjoint training and validation sets with the class proportions of `digits`.

    The number of images of a class differs from its exact proportion by less than one image in
    the validation set, and by less than two in the training set.

    Raises:
        MnistCnnError: if more images are requested than there are.
    """
    if train_images + validation_images > len(digits):
        raise MnistCnnError(
            f"data.split asks for {train_images:,} training and {validation_images:,} validation "
            f"images, but there are {len(digits):,}; lower one of them in params.yaml"
        )
    shuffled = np.random.default_rng(seed).permutation(len(digits))
    # Sorted by class and shuffled within: evenly spaced picks take the same fraction of each.
    by_class = shuffled[np.argsort(digits.labels[shuffled], kind="stable")]
    picks = _evenly_spaced(validation_images, len(by_class))
    validation, rest = by_class[picks], np.delete(by_class, picks)
    training = rest[_evenly_spaced(train_images, len(rest))]
    return digits.take(training), digits.take(validation)


def _evenly_spaced(count: int, length: int) -> npt.NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) * length // count
