"""Import the user's own labeled pictures, one folder per class, as a dataset."""

from pathlib import Path

import numpy as np

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.imaging.load import Gray, PictureError, find_pictures, is_picture, load_gray
from mnist_cnn.imaging.normalize import to_mnist
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.data.split import stratified_split

MIN_PICTURES = 5  # per class, for the training, validation and test sets


def read_image_folder(folder: Path, test_fraction: float) -> tuple[Dataset, Dataset]:
    """Read the pictures in `folder`/CLASS as training and test sets, preprocessed as for inference.

    The classes are sorted by name; names that are numbers come first, by value.

    Args:
        folder: contains one folder per class with its pictures, at any depth.
        test_fraction: fraction of each class that becomes test images, from 0 to 1.

    Raises:
        MnistCnnError: if there are fewer than two classes, a class has too few pictures or an
            unusable name, or a picture cannot be used; up to ten problems are listed.
        OSError: if a file cannot be read.
    """
    names = sorted((path.name for path in _folders(folder)), key=_by_number)
    if len(names) < 2:
        raise MnistCnnError(
            f"{folder} needs a folder of pictures for each of at least two classes, such as "
            f"{folder}/cat and {folder}/dog; it has {len(names)}"
        )
    problems = [
        f"{path} is of no class: move it into the folder of one"
        for path in sorted(folder.iterdir())
        if is_picture(path)
    ]
    images: list[Gray] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _read_class(folder / name, problems)
        images += found
        labels += len(found) * [label]
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise MnistCnnError(
            f"the pictures in {folder} cannot be used:\n  " + "\n  ".join(problems[:10]) + more
        )
    every = Dataset(np.stack(images), np.array(labels, np.int64), tuple(names))
    tested = max(round(test_fraction * len(every)), 1)
    return stratified_split(every, len(every) - tested, tested, seed=0)


def _read_class(folder: Path, problems: list[str]) -> list[Gray]:
    """Read the images of one class; append whatever cannot be used to `problems`."""
    if "," in folder.name or not folder.name.isprintable():
        problems.append(f"{folder.name!r} cannot be a class: rename it without commas")
        return []
    pictures = sorted(find_pictures([str(folder)]))
    if len(pictures) < MIN_PICTURES:
        problems.append(f"{folder} has {len(pictures)} pictures; it needs at least {MIN_PICTURES}")
    images = []
    for picture in pictures:
        try:
            image = to_mnist(load_gray(picture))
        except PictureError as error:
            problems.append(str(error))
            continue
        if image is None:
            problems.append(f"{picture}: no ink was found; remove it")
        else:
            images.append(image)
    return images


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _by_number(name: str) -> tuple[bool, int, str]:
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)
