"""How well a network reads digits that it was not trained on, and tells them from non-digits."""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.special import logsumexp

from mnist_cnn.core.mnist import LABELS
from mnist_cnn.imaging.load import load_gray
from mnist_cnn.imaging.normalize import to_mnist
from mnist_cnn_train.data.catalog import HELD_OUT_FONTS
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.picture_suite import (
    LIKE_DIGITS,
    NON_DIGIT_KINDS,
    UNLIKE_DIGITS,
    dejavu_fonts,
)

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

# From uint8 [n, 28, 28] to logits, float32 [n, 10], or [n, 11] with one for non-digits.
Read = Callable[[Pixels], npt.NDArray[np.float32]]

# From the same logits to a score, [n], that is higher the less an image looks like a digit.
Rejection = Callable[[npt.NDArray[np.float32]], Scores]

FALSE_ALARMS = 0.01  # fraction of the test digits that may be flagged
FONT_SIZES, ANGLES = (24, 80), (-10, 0, 10)


KINDS = (
    *("held_out_letters", "held_out_letters_like_digits"),
    *("noise", "scribbles", "shapes", "pieces_of_a_photograph", "letters", "letters_like_digits"),
)
METRICS = (
    *("held_out_font_accuracy", "digits_8x8_accuracy"),
    *(f"{kind}_{metric}" for kind in KINDS for metric in ("flagged", "auroc", "fpr95")),
)


def evaluate_reader(
    read: Read,
    digits: Dataset,
    fonts: Path,
    count: int = 500,
    rejection: Rejection | None = None,
) -> dict[str, float]:
    """Evaluate `read` on synthetic pictures, after the reader's own preprocessing.

    Args:
        read: the network.
        digits: images of digits, which non-digits are to be told from.
        fonts: archive of fonts, as `download_fonts` writes it.
        count: pictures of each kind of non-digits.
        rejection: how to score; by default, `rejection_scores`.

    Returns:
        Fractions from 0 to 1: the accuracy on digits of `HELD_OUT_FONTS` and of 8x8 pixels; and
        for each kind of non-digits, those flagged when `FALSE_ALARMS` of `digits` are, the area
        under the ROC curve (AUROC), and the false positive rate at a true positive rate of 95 %
        (FPR95), with digits as the positive class.
    """
    score = rejection or rejection_scores
    known = score(read(as_seen(digits.images)))
    found = {
        "held_out_font_accuracy": _accuracy(read, _font_digits(fonts)),
        "digits_8x8_accuracy": _accuracy(read, _small_digits()),
    }
    for kind, images in _non_digits(fonts, count):
        scores = score(read(images))
        found |= {f"{kind}_{name}": value for name, value in separation(known, scores).items()}
    return {name: round(value, 6) for name, value in found.items()}


def rejection_scores(logits: npt.NDArray[np.float32]) -> Scores:
    """Return a score, ``[n]``, that is higher the less an image looks like a digit.

    With a logit for non-digits, it is their log-odds; otherwise the largest logit, negated.
    """
    digits, rest = np.split(logits, [len(LABELS)], axis=1)
    scores: Scores = -digits.max(axis=1)
    if rest.size:
        scores = rest[:, 0] - logsumexp(digits, axis=1)
    return scores


def separation(known: Scores, unknown: Scores) -> dict[str, float]:
    """Measure how well scores tell non-digits, `unknown`, from digits, `known`."""
    # Importing it sets environment variables, so only where it is used.
    from sklearn.metrics import roc_auc_score, roc_curve

    truth = np.repeat([0, 1], [len(known), len(unknown)])
    scores = np.concatenate([known, unknown])
    threshold = np.quantile(known, 1 - FALSE_ALARMS)
    false_alarms, caught, _ = roc_curve(truth, scores)
    return {
        "flagged": float((unknown > threshold).mean()),
        "auroc": float(roc_auc_score(truth, scores)),
        "fpr95": 1 - float(np.interp(0.05, false_alarms, caught)),
    }


def as_seen(pictures: Iterable[Pixels | Image.Image]) -> Pixels:
    """Preprocess `pictures` as the reader does; those without ink are left out."""
    images = (to_mnist(load_gray(picture)) for picture in pictures)
    return np.stack([image for image in images if image is not None])


def _accuracy(read: Read, labeled: Mapping[str, Pixels]) -> float:
    """Return the mean accuracy over images that are given by their label."""
    correct = [
        read(images)[:, : len(LABELS)].argmax(axis=1) == int(label)
        for label, images in labeled.items()
    ]
    return float(np.concatenate(correct).mean())


def _small_digits() -> dict[str, Pixels]:
    """Return scikit-learn's digits, whose 8x8 pixels are from 0 to 16."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (255 - images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    return {label: as_seen(pixels[labels == int(label)]) for label in LABELS}


def _font_digits(archive: Path) -> dict[str, Pixels]:
    fonts = [*_held_out(archive), *(Path(path).read_bytes() for path in dejavu_fonts())]
    return {label: as_seen(_written(label, fonts)) for label in LABELS}


def _held_out(archive: Path) -> list[bytes]:
    """Return the content of each font that nothing is trained on."""
    with zipfile.ZipFile(archive) as file:
        return [file.read(name) for name in sorted(HELD_OUT_FONTS)]


def _written(text: str, fonts: Sequence[bytes]) -> Iterator[Image.Image]:
    """Write each character of `text` in each font, size and angle, dark on white."""
    for font in fonts:
        for size in FONT_SIZES:
            side, face = 2 * size, ImageFont.truetype(BytesIO(font), size)
            for character in text:
                picture = Image.new("L", (side, side), 255)
                place = (side / 2, side / 2)
                ImageDraw.Draw(picture).text(place, character, fill=0, font=face, anchor="mm")
                for angle in ANGLES:
                    yield picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=255)


def _key(kind: str) -> str:
    return kind.partition(" (")[0].replace(" ", "_")


def _non_digits(archive: Path, count: int) -> Iterator[tuple[str, Pixels]]:
    """Yield each kind's name, fit for a key, and its images."""
    fonts = _held_out(archive)
    yield "held_out_letters", as_seen(_written(UNLIKE_DIGITS, fonts))
    yield "held_out_letters_like_digits", as_seen(_written(LIKE_DIGITS, fonts))
    for kind, draw in NON_DIGIT_KINDS.items():
        if kind != "blank paper":  # which has no ink
            rng = np.random.default_rng(0)
            yield _key(kind), as_seen(draw(rng) for _ in range(count))
