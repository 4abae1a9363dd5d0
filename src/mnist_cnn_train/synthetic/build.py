"""The set of synthetic images for a training, preprocessed as the reader does."""

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ImageFont
from tqdm import trange

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.mnist import LABELS
from mnist_cnn.imaging.normalize import to_mnist
from mnist_cnn_train.data.catalog import HELD_OUT_FONTS, NON_DIGIT
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.pipeline.params import Synthesize
from mnist_cnn_train.synthetic import non_digits
from mnist_cnn_train.synthetic.digits import Font, from_font, from_form, redrawn
from mnist_cnn_train.synthetic.strokes import Gray, Random

SIZES = (28, 44, 64)  # of a font, in pixels

# Draws a picture, and returns its label, too.
Source = Callable[[Random], tuple[Gray, int]]


def synthesize(digits: Dataset, archive: Path, counts: Synthesize) -> Dataset:
    """Draw digits and non-digits; the label of non-digits is 10.

    Args:
        digits: training digits to redraw and to combine.
        archive: fonts, as `download_fonts` writes them; may be empty if none are needed.
        counts: number of images of each kind, and the seed.

    Raises:
        MnistCnnError: if there is something to draw, but the classes of `digits` are no digits.
    """
    drawn_kinds = [name for name, count in counts if count and name != "seed"]
    if drawn_kinds and digits.names != LABELS:
        raise MnistCnnError(
            f"synthesize.{drawn_kinds[0]} should be 0: the data set has the classes "
            f"{', '.join(digits.names)}, not the ten digits"
        )
    fonts = _read_fonts(archive)
    sources: list[tuple[int, Source]] = [
        (counts.font_digits, partial(from_font, fonts)),
        (counts.form_digits, from_form),
        (counts.redrawn_digits, partial(redrawn, digits)),
        *_non_digits(digits, fonts, counts.non_digits),
    ]
    rng = np.random.default_rng(counts.seed)
    drawn = [one for count, source in sources for one in _draw(count, source, rng)]
    images = [image for image, _ in drawn]
    return Dataset(
        np.stack(images) if images else digits.images[:0],
        np.array([label for _, label in drawn], np.int64),
        (*LABELS, NON_DIGIT),
    )


def _draw(count: int, source: Source, rng: Random) -> Iterator[tuple[Gray, int]]:
    """Yield `count` images in MNIST's format with their labels; redraw those without ink."""
    name = getattr(source, "func", source).__name__
    for _ in trange(count, desc=name.strip("_"), unit="image", disable=None):
        image = None
        while image is None:
            picture, label = source(rng)
            image = to_mnist(picture, medium=0)  # the network should know faded strokes, too
        yield image, label


def _non_digits(digits: Dataset, fonts: list[Font], count: int) -> Iterator[tuple[int, Source]]:
    """Yield each source of non-digits, with its share of `count`."""
    for percent, draw in (
        (38, partial(non_digits.letter, fonts)),
        (5, partial(non_digits.word, fonts)),
        (9, partial(non_digits.several, list(digits.images))),
        (20, non_digits.figure),
        (6, non_digits.blot),
        (10, non_digits.texture),
        (12, non_digits.scribble),
    ):
        yield percent * count // 100, partial(_non_digit, draw)


def _non_digit(draw: Callable[[Random], Gray], rng: Random) -> tuple[Gray, int]:
    return draw(rng), len(LABELS)


def _read_fonts(archive: Path) -> list[Font]:
    with zipfile.ZipFile(archive) as file:
        names = sorted(set(file.namelist()) - HELD_OUT_FONTS)
        contents = [file.read(name) for name in names]
    return [ImageFont.truetype(BytesIO(one), size) for one in contents for size in SIZES]
