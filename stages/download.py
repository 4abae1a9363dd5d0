"""Download or import the dataset as four IDX files and a description of its classes."""

from mnist_cnn_train.data.catalog import TEST_FILES, TRAINING_FILES
from mnist_cnn_train.data.dataset import write_dataset
from mnist_cnn_train.download.fonts import download_fonts, write_fonts
from mnist_cnn_train.download.sources import download, download_published
from mnist_cnn_train.pipeline.params import Data, load_params
from mnist_cnn_train.pipeline.paths import FONTS, IMAGE_FOLDER, RAW_DATA
from mnist_cnn_train.pipeline.stage import exclusive_lock


@exclusive_lock("download")
def main() -> None:
    """Write data/raw."""
    data = load_params().data
    bring_images(data)
    bring_fonts(data)


def bring_images(data: Data) -> None:
    """Write the four files, and what they hold."""
    if data.dataset == "folder":
        read_own(data)
    elif data.dataset == "mnist":
        source = download(data.sources, RAW_DATA)
        print(f"MNIST came from {source}; all four SHA-256 sums match")
    else:
        source = download_published(data.dataset, data.sources, RAW_DATA)
        print(f"{data.dataset} came from {source}; the SHA-256 of every file matches")


def bring_fonts(data: Data) -> None:
    """Write the fonts, or none where no image is drawn with them."""
    if not data.fonts:
        write_fonts({}, FONTS)
        return
    source = download_fonts(data.sources, FONTS)
    print(f"the fonts came from {source}; all SHA-256 sums match")


def read_own(data: Data) -> None:
    """Import the pictures in data/own."""
    from mnist_cnn_train.download.image_folder import (
        read_image_folder,  # its imports are not needed otherwise
    )

    training, test = read_image_folder(IMAGE_FOLDER, data.test_fraction)
    parts = ((TRAINING_FILES, training), (TEST_FILES, test))
    files = {
        file: values
        for (images, labels), digits in parts
        for file, values in ((images, digits.images), (labels, digits.labels))
    }
    write_dataset("folder", training.names, files, RAW_DATA)
    print(f"{len(training)} pictures of {len(training.names)} classes, and {len(test)} to test by")
