"""Pictures that a network trained on MNIST alone misreads, beside what the reader makes of them.

Those of a kind are the first that the network gets wrong: a digit with another label, or a sign
without a warning.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from mnist_cnn.imaging.load import Gray, load_gray
from mnist_cnn.imaging.normalize import to_mnist
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.picture_suite import NON_DIGIT_KINDS, Random

if TYPE_CHECKING:
    from mnist_cnn.reader.recognizer import Prediction, Recognizer

TRIES = 500  # digits or signs of each kind


class Fooled(NamedTuple):
    """A picture; what it shows, None if no digit; and both predictions."""

    gray: Gray
    truth: str | None
    plain: "Prediction"
    reader: "Prediction"


def _on_a_sheet(digit: Gray, rng: Random) -> Image.Image:
    sheet = Image.new("L", (28, 28))
    sheet.paste(Image.fromarray(digit).resize((20, 20), Image.Resampling.BICUBIC), (4, 4))
    large = np.asarray(sheet.resize((200, 200), Image.Resampling.BICUBIC), np.float64)
    light = 235 * (1 - large / 255) + rng.normal(scale=3, size=large.shape)
    return Image.fromarray(light.clip(0, 255).astype(np.uint8))


def _in_a_frame(digit: Gray, rng: Random) -> Image.Image:
    picture, margin = _on_a_sheet(digit, rng), int(rng.integers(3, 14))
    corners = (margin, margin, 199 - margin, 199 - margin)
    ImageDraw.Draw(picture).rectangle(corners, outline=40, width=int(rng.integers(2, 6)))
    return picture


def _on_a_desk(digit: Gray, rng: Random) -> Image.Image:
    desk = Image.new("L", (300, 300), 60)
    desk.paste(_on_a_sheet(digit, rng), (50, 50))
    return desk.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC, fillcolor=60)


def _between_rules(digit: Gray, rng: Random) -> Image.Image:
    picture = _on_a_sheet(digit, rng)
    for y in (20, 100, 180):
        ImageDraw.Draw(picture).line((0, y, 199, y), fill=70, width=3)
    return picture


def _cropped_closely(digit: Gray, rng: Random) -> Image.Image:
    inverted = Image.fromarray(255 - digit).crop(Image.fromarray(digit).getbbox())
    return inverted.resize((8 * inverted.width, 8 * inverted.height), Image.Resampling.BICUBIC)


def _thin_and_small(digit: Gray, rng: Random) -> Image.Image:
    large = cv2.resize(digit, (288, 288), interpolation=cv2.INTER_CUBIC)
    thin = cv2.erode(large, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13)))
    small = cv2.resize(thin, (36, 36), interpolation=cv2.INTER_AREA)
    return Image.fromarray((255 - small).astype(np.uint8))


def _angular_six(rng: Random) -> Image.Image:
    points = [(60, 15), (30, 60), (30, 115), (90, 115), (90, 70), (30, 70)]
    moved = [(float(x), float(y)) for x, y in np.array(points) + rng.normal(scale=6, size=(6, 2))]
    picture = Image.new("L", (120, 130), 255)
    ImageDraw.Draw(picture).line(moved, fill=0, width=int(rng.integers(3, 12)))
    return picture


DIGIT_KINDS: Mapping[str, Callable[[Gray, Random], Image.Image]] = {
    "in a frame": _in_a_frame,
    "on a desk": _on_a_desk,
    "between rules": _between_rules,
    "cropped closely": _cropped_closely,
    "thin and small": _thin_and_small,
}


def find_fooled(
    plain: "Recognizer", reader: "Recognizer", digits: Dataset, each: int
) -> dict[str, list[Fooled]]:
    """Find up to `each` pictures of every kind that `plain` misreads.

    Args:
        plain: network that sees each picture once, after preprocessing.
        reader: reads the same pictures in full, with a second look.
        digits: to draw pictures of.
        each: number of pictures per kind.
    """
    return {
        name: list(islice(_fooled(plain, reader, pictures), each))
        for name, pictures in _pictures(digits).items()
    }


def _pictures(digits: Dataset) -> dict[str, Iterator[tuple[Image.Image, str | None]]]:
    """Return pictures of each kind, each with the digit in it, None for a sign."""
    some = digits.take(np.random.default_rng(0).permutation(len(digits))[:TRIES])
    labels = [digits.names[label] for label in some.labels]
    labeled = list(zip(some.images, labels, strict=True))

    def rendered(
        render: Callable[[Gray, Random], Image.Image],
    ) -> Iterator[tuple[Image.Image, str | None]]:
        rng = np.random.default_rng(0)
        return ((render(image, rng), name) for image, name in labeled)

    def drawn(
        draw: Callable[[Random], Image.Image], name: str | None
    ) -> Iterator[tuple[Image.Image, str | None]]:
        rng = np.random.default_rng(0)
        return ((draw(rng), name) for _ in range(TRIES))

    return {
        **{name: rendered(render) for name, render in DIGIT_KINDS.items()},
        "an angular 6": drawn(_angular_six, "6"),
        "no digit": drawn(NON_DIGIT_KINDS["shapes"], None),
    }


def _fooled(
    plain: "Recognizer",
    reader: "Recognizer",
    pictures: Iterator[tuple[Image.Image, str | None]],
) -> Iterator[Fooled]:
    for picture, truth in pictures:
        gray = load_gray(picture)
        [seen_once] = plain.classify([to_mnist(gray)])
        if seen_once.label != truth if truth else seen_once.warning is None:
            yield Fooled(gray, truth, seen_once, reader.predict(picture))
