import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import astuple
from itertools import chain, product
from operator import length_hint
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import page
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

import mnist_cnn
from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.mnist import LABELS
from mnist_cnn.imaging.load import PictureError
from mnist_cnn.onnxfile.contract import LABELS_KEY
from mnist_cnn.onnxfile.session import BATCH
from mnist_cnn.reader.recognizer import NO_DIGIT, NO_INK, Prediction, Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.picture_suite import NON_DIGIT_KINDS


def test_a_picture_of_a_digit_is_read_however_it_is_given(
    recognizer: Recognizer, holdout_digits: Dataset, tmp_path: Path
) -> None:
    pixels, label = holdout_digits.images[0], str(holdout_digits.labels[0])
    image = Image.fromarray(255 - pixels).resize((200, 200))
    path = tmp_path / "digit.png"
    image.save(path)
    for picture in (path, str(path), path.read_bytes(), image, np.asarray(image)):
        read = recognizer.predict(picture)
        assert (read.label, read.warning, read.box) == (label, None, None)
        assert read.image.shape == (28, 28)
        assert read.probability == max(read.probabilities.values()) > 0.5
        assert tuple(read.probabilities) == LABELS
        assert sum(read.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert read.source == (str(path) if isinstance(picture, str | Path) else None)


def labels(predictions: Iterable[Prediction]) -> list[int]:
    return [int(prediction.label or -1) for prediction in predictions]


def test_many_pictures_are_read_in_order_as_they_come(
    recognizer: Recognizer, holdout_digits: Dataset
) -> None:
    pictures = iter(holdout_digits.images)
    predictions = recognizer.predict_many(pictures)
    first = next(predictions)
    assert length_hint(pictures) == len(holdout_digits) - BATCH
    read = labels([first, *predictions])
    assert np.mean(read == holdout_digits.labels) > 0.98


@pytest.mark.slow
def test_small_digits_of_another_source_are_read(recognizer: Recognizer) -> None:
    """1,797 of 8x8 pixels, by other people, cut close."""
    digits = load_digits()
    pictures = (255 / 16 * digits.images).round().astype(np.uint8)
    read = labels(recognizer.predict_many(pictures))
    assert np.mean(read == digits.target) > 0.95  # the recipe `speed`; 0.97 by the default


def fonts() -> list[str]:
    """The upright fonts of this machine that have digits; none for keys, music or mathematics."""
    found = []
    for path in sorted(Path("/usr/share/fonts").rglob("*.[to]tf")):
        try:
            family, style = ImageFont.truetype(str(path), 20).getname()
        except OSError:  # no font that Pillow knows
            continue
        no_text = re.search("Symbol|Emoji|Math|Keyboard|Initials|Music", f"{family} {path.stem}")
        if style in ("Regular", "Book", "Bold") and not no_text:
            found.append(str(path))
    return found


def printed(digit: int, font: str, size: int, angle: float) -> Image.Image:
    paper = Image.new("L", (2 * size, 2 * size), 255)
    typeface = ImageFont.truetype(font, size)
    ImageDraw.Draw(paper).text((size, size), str(digit), font=typeface, fill=0, anchor="mm")
    return paper.rotate(angle, Image.Resampling.BICUBIC, fillcolor=255)


@pytest.mark.slow
@pytest.mark.skipif(len(fonts()) < 30, reason="fewer than 30 fonts are installed")
def test_printed_digits_are_read_at_several_sizes_and_turned(recognizer: Recognizer) -> None:
    drawn = list(product(range(10), fonts(), ((20, 0), (60, -15), (40, 15))))
    pictures = (printed(digit, font, size, angle) for digit, font, (size, angle) in drawn)
    read = labels(recognizer.predict_many(pictures))
    assert np.mean(read == np.array([digit for digit, _, _ in drawn])) > 0.95


def test_a_batch_reads_as_each_alone(recognizer: Recognizer, holdout_digits: Dataset) -> None:
    pictures = [*holdout_digits.images[:3], np.zeros((28, 28), np.uint8), holdout_digits.images[4]]
    for picture, read in zip(pictures, recognizer.predict_many(pictures), strict=True):
        alone = recognizer.predict(picture)
        assert alone.label == read.label
        assert alone.probability == pytest.approx(read.probability, abs=1e-5)


def test_unusable_pictures_are_reported_and_the_others_read(
    recognizer: Recognizer, holdout_digits: Dataset, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    pictures = [broken, holdout_digits.images[0], b"", holdout_digits.images[1]]
    errors: list[PictureError] = []
    read = labels(recognizer.predict_many(pictures, errors.append))
    assert read == holdout_digits.labels[:2].tolist()
    assert [error.source for error in errors] == [str(broken), None]
    with pytest.raises(PictureError, match=f"{broken}: is not a picture"):
        list(recognizer.predict_many(pictures))


def test_a_prediction_is_printed_in_one_line_without_its_pixels(
    recognizer: Recognizer, holdout_digits: Dataset
) -> None:
    prediction = recognizer.predict(holdout_digits.images[0])
    text = str(prediction)
    assert text.startswith(f"Prediction(label='{prediction.label}', probability=0.")
    assert "\n" not in text
    assert len(text) < 120


def test_a_blank_picture_says_that_no_ink_was_found(recognizer: Recognizer) -> None:
    blank = Image.new("L", (100, 100), 200)
    assert recognizer.predict(blank) == Prediction(None, 0, {}, NO_INK, None)


def test_what_is_far_from_any_digit_carries_a_warning(recognizer: Recognizer) -> None:
    rng = np.random.default_rng(0)
    pieces = [NON_DIGIT_KINDS["pieces of a photograph"](rng) for _ in range(50)]
    warnings = [prediction.warning for prediction in recognizer.predict_many(pieces)]
    assert warnings.count(NO_DIGIT) > 20


@pytest.mark.parametrize("image", [np.zeros((28, 27), np.uint8), np.zeros((28, 28), np.float32)])
def test_an_image_not_as_mnists_is_refused(recognizer: Recognizer, image: np.ndarray) -> None:
    with pytest.raises(PictureError, match="not uint8 28 x 28 as MNIST's"):
        list(recognizer.classify([image]))


def test_a_page_is_read_line_by_line_with_boxes_in_its_own_pixels(recognizer: Recognizer) -> None:
    rows = ["31415", "926", "5358979"]
    image, boxes = page(rows)
    predictions = recognizer.read(image.resize((5 * image.width, 5 * image.height)))
    assert [read.line for read in predictions] == 5 * [1] + 3 * [2] + 7 * [3]
    right = [read.label == digit for read, digit in zip(predictions, "".join(rows), strict=True)]
    assert sum(right) >= 13  # of 15: a typeface is no handwriting
    for read, box in zip(predictions, chain(*boxes), strict=True):
        assert astuple(read.box) == pytest.approx(5 * np.array(astuple(box)), abs=20)


def test_a_page_of_noise_is_refused_by_its_path(recognizer: Recognizer, tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    noise = np.full((1_000, 1_000), 255, np.uint8)
    noise.reshape(50, 20, 50, 20)[1:-1, :4, 1:-1, :4] = 0
    Image.fromarray(noise).save(path)
    with pytest.raises(PictureError, match="separate marks") as refusal:
        recognizer.read(path)
    assert refusal.value.source == str(path)
    assert recognizer.predict(path).label  # as one digit it is strange, but quickly read


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    other = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        other (float[1] x) => (float[1] y) { y = Identity(x) }"""
    )
    onnx.save(other, path)
    with pytest.raises(MnistCnnError, match="is not a model of mnist-cnn's pipeline"):
        Recognizer(path)


def test_a_model_without_a_bound_for_digits_says_how_to_make_one(
    trained_model: Path, tmp_path: Path
) -> None:
    model = onnx.load(trained_model)
    onnx.helper.set_model_props(model, {LABELS_KEY: ",".join(LABELS)})
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(MnistCnnError, match="run `dvc repro export`"):
        Recognizer(tmp_path / "old.onnx")


def test_the_package_offers_it_without_torch_or_anything_of_the_pipeline() -> None:
    assert mnist_cnn.Recognizer is Recognizer
    assert issubclass(mnist_cnn.PictureError, mnist_cnn.MnistCnnError)
    assert all(hasattr(mnist_cnn, name) for name in mnist_cnn.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Reader'"):
        mnist_cnn.Reader  # noqa: B018
    program = (
        "import sys; from mnist_cnn import Recognizer\n"
        "heavy = {'torch', 'torchvision', 'dvc', 'onnx', 'scipy', 'matplotlib', 'pydantic'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
