"""Catalog of supported datasets: files, sizes, checksums and credits."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import write_json
from mnist_cnn.core.mnist import LABELS

TRAINING_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# Of the uncompressed files, as first published on the MNIST page.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
NON_DIGIT = "not a digit"  # name of the additional class of synthetic images
DESCRIPTION = "dataset.json"  # in the same folder: name and classes of the dataset


@dataclass(frozen=True)
class Description:
    """Description of a dataset's four IDX files.

    Attributes:
        dataset: name, as in the setting `data.dataset`.
        names: class names, by label.
        sha256: SHA-256 of each file, by its name.
    """

    dataset: str
    names: tuple[str, ...]
    sha256: dict[str, str]


MNIST = Description("mnist", LABELS, SHA256)


def read_description(folder: Path) -> Description:
    """Read the description of the dataset in `folder`; without one, it is MNIST.

    Raises:
        MnistCnnError: if the description is damaged.
        OSError: if the description cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return MNIST
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        found = Description(noted["dataset"], tuple(noted["names"]), dict(noted["sha256"]))
    except (ValueError, KeyError, TypeError):
        raise MnistCnnError(f"{path} is damaged; run `make repair`") from None
    return MNIST if found.dataset == MNIST.dataset else found  # with the published checksums


def write_description(folder: Path, description: Description) -> None:
    """Write what the files in `folder` contain."""
    write_json(folder / DESCRIPTION, asdict(description))


# Training images of each dataset; those of a folder are not known in advance.
TRAINING_IMAGES = {
    **dict.fromkeys(("mnist", "fashion-mnist", "kmnist", "qmnist"), 60_000),
    "emnist-digits": 240_000,
}
# Of the downloaded fonts, those to evaluate with: nothing is trained on them.
HELD_OUT_FONTS = frozenset(
    {
        # Handwriting
        *("gloria-hallelujah", "homemade-apple", "indie-flower", "kalam", "mali"),
        *("over-the-rainbow", "patrick-hand"),
        # Print
        *("courier-prime", "lora", "rajdhani", "roboto-mono", "special-elite"),
    }
)
CREDITS = {
    "mnist": "MNIST (Y. LeCun, C. Cortes, C. J. C. Burges)",
    "fashion-mnist": "Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf)",
    "kmnist": "KMNIST (T. Clanuwat et al.; adapted from the Kuzushiji dataset by NIJL and others)",
    "qmnist": "QMNIST (C. Yadav, L. Bottou)",
    "emnist-digits": "EMNIST digits (G. Cohen, S. Afshar, J. Tapson, A. van Schaik)",
    "folder": "pictures of the user's own",
}
