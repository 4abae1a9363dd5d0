"""MNIST digits rendered as everyday pictures, and pictures that contain no digit.

For evaluation only. The same seed gives the same pictures on every machine.
"""

import io
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import cv2
import matplotlib
import numpy as np
from matplotlib import cbook
from PIL import Image, ImageDraw, ImageFont

from mnist_cnn.imaging.load import Gray, load_gray
from mnist_cnn_train.data.dataset import Dataset

if TYPE_CHECKING:
    from mnist_cnn.reader.recognizer import Prediction, Recognizer

Random = np.random.Generator
Point = tuple[float, float]
SIDE = 140  # of a picture without a digit


def _as_it_is(digit: Gray, rng: Random) -> Image.Image:
    return Image.fromarray(digit)


def _inverted(digit: Gray, rng: Random) -> Image.Image:
    return Image.fromarray(255 - digit)


def _enlarged(digit: Gray, rng: Random) -> Image.Image:
    return Image.fromarray(digit).resize((300, 300), Image.Resampling.BICUBIC)


def _shifted(digit: Gray, rng: Random) -> Image.Image:
    """Paste at a random place in a picture of twice the size."""
    picture = Image.new("L", (56, 56))
    picture.paste(Image.fromarray(digit), (int(rng.integers(29)), int(rng.integers(29))))
    return picture


def _on_colored_paper(digit: Gray, rng: Random) -> Image.Image:
    paper = rng.integers(150, 256, 3)
    ink = rng.integers(0, 90, 3)
    ratio = digit[:, :, None] / 255
    return Image.fromarray((paper + ratio * (ink - paper)).round().astype(np.uint8))


def _jpeg(digit: Gray, rng: Random) -> Image.Image:
    return _compressed(Image.fromarray(digit), 30)


def _transparent(digit: Gray, rng: Random) -> Image.Image:
    """Draw in white on transparency, as many drawing programs do."""
    picture = Image.new("LA", (28, 28), (255, 0))
    picture.putalpha(Image.fromarray(digit))
    return picture


def _photographed(digit: Gray, rng: Random) -> Image.Image:
    """Simulate a photo: pen on ruled paper, lit from one side, with a shadow across."""
    side = 240
    ink = np.asarray(
        Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC), np.float64
    )
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle = rng.uniform(0, 2 * math.pi)
    across = x * math.cos(angle) + y * math.sin(angle)
    lamp = 0.75 + 0.2 * across
    lamp *= 1 - 0.3 / (1 + np.exp(-40 * (across + rng.uniform(-0.6, 0.6))))
    fibres = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 1.5)
    reflected = 0.95 + 0.03 * fibres / fibres.std()
    reflected[:: side // 8] -= 0.15  # ruled lines
    reflected[1 :: side // 8] -= 0.15
    reflected *= 1 - 0.7 * ink / 255
    light = 255 * reflected * lamp + rng.normal(scale=4, size=(side, side))
    return _compressed(Image.fromarray(light.clip(0, 255).astype(np.uint8)), 60)


def _compressed(picture: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    return Image.open(content)


PICTURE_KINDS: Mapping[str, Callable[[Gray, Random], Image.Image]] = {
    "as it is": _as_it_is,
    "inverted": _inverted,
    "enlarged to 300x300": _enlarged,
    "shifted": _shifted,
    "on colored paper": _on_colored_paper,
    "JPEG of quality 30": _jpeg,
    "drawn in white on transparency": _transparent,
    "photographed on ruled paper": _photographed,
}


def _noise(rng: Random) -> Image.Image:
    """Draw noise, independent for each pixel or cloud-like."""
    values = rng.normal(size=(SIDE, SIDE))
    spread = rng.choice([0, 1, 3, 8])
    if spread:
        values = np.asarray(cv2.GaussianBlur(values, (0, 0), float(spread)), np.float64)
    values = 128 + rng.uniform(20, 80) * values / values.std()
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _letter(alphabet: str) -> Callable[[Random], Image.Image]:
    def draw(rng: Random) -> Image.Image:
        picture = Image.new("L", (SIDE, SIDE), 255)
        font = _font(str(rng.choice(dejavu_fonts())), int(rng.integers(70, 110)))
        letter = alphabet[int(rng.integers(len(alphabet)))]
        place = (SIDE / 2, SIDE / 2)
        ImageDraw.Draw(picture).text(place, letter, fill=0, font=font, anchor="mm")
        return picture.rotate(float(rng.uniform(-10, 10)), fillcolor=255)

    return draw


@cache
def dejavu_fonts() -> tuple[str, ...]:
    """Return matplotlib's DejaVu fonts: serif and sans serif, bold and oblique."""
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    return tuple(str(path) for path in sorted(folder.glob("DejaVu*[!y].ttf")))


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _shape(rng: Random) -> Image.Image:
    """Draw a polygon, star, cross, heart, arrow or spiral, as an outline or filled."""
    picture = Image.new("L", (SIDE, SIDE), 255)
    draw = ImageDraw.Draw(picture)
    outlines = [_polygon(3), _polygon(4), _polygon(6), _star(), _heart(), *_strokes()]
    outline = outlines[int(rng.integers(len(outlines)))]
    angle, size = rng.uniform(-0.3, 0.3), rng.uniform(35, 55)
    points = [
        (
            SIDE / 2 + size * (x * math.cos(angle) - y * math.sin(angle)),
            SIDE / 2 + size * (x * math.sin(angle) + y * math.cos(angle)),
        )
        for x, y in outline
    ]
    if outline[0] == outline[-1] and rng.random() < 0.3:
        draw.polygon(points, fill=0)
    else:
        draw.line(points, fill=0, width=int(rng.integers(6, 14)), joint="curve")
    return picture


def _polygon(corners: int) -> list[Point]:
    turns = [2 * math.pi * corner / corners - math.pi / 2 for corner in range(corners + 1)]
    return _closed([(math.cos(turn), math.sin(turn)) for turn in turns])


def _star() -> list[Point]:
    turns = [math.pi * corner / 5 - math.pi / 2 for corner in range(11)]
    return _closed(
        [
            ((0.45, 1)[place % 2 == 0] * math.cos(turn), (0.45, 1)[place % 2 == 0] * math.sin(turn))
            for place, turn in enumerate(turns)
        ]
    )


def _heart() -> list[Point]:
    turns = np.linspace(0, 2 * math.pi, 40)
    across = np.sin(turns) ** 3
    down = -(13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns)) / 16
    return _closed(list(zip(across.tolist(), down.tolist(), strict=True)))


def _closed(points: list[Point]) -> list[Point]:
    return [*points[:-1], points[0]]


def _strokes() -> list[list[Point]]:
    arrow = [(-1.0, 0.0), (1.0, 0.0), (0.4, -0.5), (1.0, 0.0), (0.4, 0.5)]
    cross = [(-1.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, -1.0), (0.0, 1.0)]
    turns = np.linspace(0, 6 * math.pi, 80)
    radii = np.linspace(0.1, 1, 80)
    spiral = list(
        zip((radii * np.cos(turns)).tolist(), (radii * np.sin(turns)).tolist(), strict=True)
    )
    return [arrow, cross, spiral]


def _scribble(rng: Random) -> Image.Image:
    """Draw a polyline through 8 to 20 random points."""
    picture = Image.new("L", (SIDE, SIDE), 255)
    places = rng.uniform(20, SIDE - 20, (int(rng.integers(8, 21)), 2))
    points = [(float(x), float(y)) for x, y in places]
    ImageDraw.Draw(picture).line(points, fill=0, width=int(rng.integers(4, 10)), joint="curve")
    return picture


def _texture(rng: Random) -> Image.Image:
    """Crop a square of matplotlib's sample photo."""
    photo = _photo()
    size = int(rng.integers(40, 160))
    left = int(rng.integers(photo.width - size))
    top = int(rng.integers(photo.height - size))
    return photo.crop((left, top, left + size, top + size))


@cache
def _photo() -> Image.Image:
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photo:
        return photo.convert("RGB")


def _blank(rng: Random) -> Image.Image:
    """Draw blank paper, unevenly lit."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    light = rng.uniform(150, 220) + 30 * (rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y)
    light += rng.normal(scale=3, size=light.shape)
    return Image.fromarray(light.clip(0, 255).astype(np.uint8))


# Letters that look like a digit in many people's handwriting or in most fonts.
LIKE_DIGITS = "BDGIOQSZbgijloqsz"
UNLIKE_DIGITS = "ACEFHJKLMNPRTUVWXYacdefhkmnprtuvwxy"
NON_DIGIT_KINDS: Mapping[str, Callable[[Random], Image.Image]] = {
    "blank paper": _blank,
    "noise": _noise,
    "scribbles": _scribble,
    "shapes": _shape,
    "pieces of a photograph": _texture,
    "letters": _letter(UNLIKE_DIGITS),
    f"letters like digits ({LIKE_DIGITS})": _letter(LIKE_DIGITS),
}


def examples(
    recognizer: "Recognizer", digits: Dataset, each: int
) -> dict[str, list[tuple[Gray, "Prediction"]]]:
    """Return the suite's first `each` pictures of every kind, with their predictions."""
    drawn: dict[str, list[Image.Image]] = {}
    for name, render in PICTURE_KINDS.items():
        rng = np.random.default_rng(0)
        drawn[name] = [render(image, rng) for image in digits.images[:each]]
    for name, draw in NON_DIGIT_KINDS.items():
        rng = np.random.default_rng(0)
        drawn[name] = [draw(rng) for _ in range(each)]
    return {
        name: [(load_gray(picture), recognizer.predict(picture)) for picture in pictures]
        for name, pictures in drawn.items()
    }


def evaluate_pictures(recognizer: "Recognizer", digits: Dataset) -> dict[str, dict[str, float]]:
    """Evaluate `recognizer` on `digits` rendered as each kind of picture.

    For each kind, returns the fraction with the same prediction as the original image
    (``agreement``), the ``accuracy``, and the fraction with a warning (``flagged``).
    """
    direct = [prediction.label for prediction in recognizer.classify(digits.images)]
    results = {}
    for name, render in PICTURE_KINDS.items():
        rng = np.random.default_rng(0)
        predictions = list(recognizer.predict_many(render(image, rng) for image in digits.images))
        labels = [prediction.label for prediction in predictions]
        pairs = list(zip(labels, direct, digits.labels, strict=True))
        results[name] = {
            "agreement": mean(label == expected for label, expected, _ in pairs),
            "accuracy": mean(label == digits.names[truth] for label, _, truth in pairs),
            "flagged": mean(prediction.warning is not None for prediction in predictions),
        }
    return results
