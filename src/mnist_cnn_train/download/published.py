"""MNIST-like datasets: where they are published, and how to convert them to MNIST's files."""

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt

from mnist_cnn.core.errors import MnistCnnError, one_line
from mnist_cnn.core.mnist import LABELS
from mnist_cnn_train.data.catalog import TEST_FILES, TRAINING_FILES
from mnist_cnn_train.data.idx import parse_idx
from mnist_cnn_train.download.attempts import SourceError

Values = npt.NDArray[np.uint8 | np.int32]
NAMES = (*TRAINING_FILES, *TEST_FILES)

# The largest file has 240,000 images of 28 x 28.
MAX_UNPACKED_BYTES = 200_000_000


@dataclass(frozen=True)
class PublishedDataset:
    """A dataset in MNIST's format.

    Attributes:
        names: class names, by label.
        files: SHA-256 of each published file, as downloaded.
        url: URL of their folder, as in torchvision 0.29.
        unpack: maps the files' contents to the values of each of `NAMES`, in that order.
    """

    names: tuple[str, ...]
    files: Mapping[str, str]
    url: str
    unpack: Callable[[Mapping[str, bytes]], Iterator[Values]]


def unpack(dataset: PublishedDataset, published: Mapping[str, bytes]) -> dict[str, Values]:
    """Return the values of the four files, by file name.

    Raises:
        SourceError: if a file is damaged or contains something else.
    """
    try:
        return dict(zip(NAMES, dataset.unpack(published), strict=True))
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile, KeyError, MnistCnnError) as error:
        raise SourceError(one_line(error)) from error


def _unzip(packed: bytes, name: str) -> Values:
    with gzip.open(BytesIO(packed)) as file:
        content = file.read(MAX_UNPACKED_BYTES + 1)
    return parse_idx(np.frombuffer(content, np.uint8), name)


def _as_they_are(published: Mapping[str, bytes]) -> Iterator[Values]:
    for name, packed in published.items():
        yield _unzip(packed, name)


def _with_first_column(published: Mapping[str, bytes]) -> Iterator[Values]:
    """Unpack QMNIST, whose labels have eight columns: the class, the writer, and others."""
    for name, packed in published.items():
        values = _unzip(packed, name)
        yield values[:, 0].astype(np.uint8) if values.ndim == 2 else values


def _transposed_from_archive(published: Mapping[str, bytes]) -> Iterator[Values]:
    """Unpack EMNIST's digits, whose images are transposed; ignore the rest of the archive."""
    (archive,) = published.values()
    with zipfile.ZipFile(BytesIO(archive)) as members:
        for part in ("train", "test"):
            for kind in ("images-idx3", "labels-idx1"):
                name = f"gzip/emnist-digits-{part}-{kind}-ubyte.gz"
                values = _unzip(members.read(name), name)
                yield values.transpose(0, 2, 1) if values.ndim == 3 else values


# Checksums are from torchvision's prototype datasets and, for EMNIST, from TensorFlow Datasets;
# other projects state the same ones.
PUBLISHED: Mapping[str, PublishedDataset] = {
    "fashion-mnist": PublishedDataset(
        names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        files={
            "train-images-idx3-ubyte.gz": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            "train-labels-idx1-ubyte.gz": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        },
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        unpack=_as_they_are,
    ),
    "kmnist": PublishedDataset(
        names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        files={
            "train-images-idx3-ubyte.gz": (
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"
            ),
            "train-labels-idx1-ubyte.gz": (
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"
            ),
        },
        url="http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        unpack=_as_they_are,
    ),
    "qmnist": PublishedDataset(
        names=LABELS,
        files={
            "qmnist-train-images-idx3-ubyte.gz": (
                "9e26a7bf1683614e065d7b76460ccd52807165b3f22561fb782bd9f38c52b51d"
            ),
            "qmnist-train-labels-idx2-int.gz": (
                "2c05dc77f6b916b38e455e97ab129a42a444f3dbef09b278a366f82904e0dd9f"
            ),
            "qmnist-test-images-idx3-ubyte.gz": (
                "43fc22bf7498b8fc98de98369d72f752d0deabc280a43a7bcc364ab19e57b375"
            ),
            "qmnist-test-labels-idx2-int.gz": (
                "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06"
            ),
        },
        url="https://raw.githubusercontent.com/facebookresearch/qmnist/master/",
        unpack=_with_first_column,
    ),
    "emnist-digits": PublishedDataset(
        names=LABELS,
        files={
            "gzip.zip": "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
        },
        url="https://biometrics.nist.gov/cs_links/EMNIST/",
        unpack=_transposed_from_archive,
    ),
}
