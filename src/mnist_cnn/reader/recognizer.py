"""Read digits in any picture with an exported model; needs neither torch nor the pipeline."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn.core.mnist import IMAGE_SIZE
from mnist_cnn.imaging.alternatives import alternatives
from mnist_cnn.imaging.box import Box
from mnist_cnn.imaging.ink import Plane, find_ink
from mnist_cnn.imaging.lines import without_rules
from mnist_cnn.imaging.load import (
    Gray,
    Loaded,
    Picture,
    PictureError,
    load,
    naming_source,
    source_of,
)
from mnist_cnn.imaging.normalize import normalize, to_mnist
from mnist_cnn.imaging.segment import separate
from mnist_cnn.onnxfile.contract import CHECKSUM_KEY, LABELS_KEY
from mnist_cnn.onnxfile.model import DigitModel, Outputs
from mnist_cnn.onnxfile.session import BATCH
from mnist_cnn.reader.touching import may_be_several, take_apart

NO_INK = "no ink was found"
NO_DIGIT = "may not be a digit"
SEVERAL = "may be several digits; use read"
MAX_SEVERAL = 10  # digits in one picture; more parts are noise

# An alternative reading is taken if its `not_a_digit` is below this fraction of the threshold:
# half of the threshold reads nearly as many validation digits in frames and on desks and rules,
# but lets fewer pieces of photographs pass for digits.
ALTERNATIVE_FACTOR = 0.5
UNSURE = "may be another digit"  # all other labels together are more likely

# The same two, for labels that are not digits.
NO_CLASS = "may be of no class"
UNSURE_CLASS = "may be of another class"


@dataclass(frozen=True)
class Prediction:
    """Prediction for one picture, or for one box in it.

    Attributes:
        label: the most likely label; None without ink.
        probability: probability of `label`, from 0 to 1; 0 without ink.
        probabilities: probability of each label, in the model's order; empty without ink.
        warning: why the prediction should not be trusted; None if there is no reason.
        image: the network's input, uint8 ``[28, 28]``; None without ink.
        box: location in pixels of the upright picture; None for the whole picture.
        line: number of the line on the page, from 1; None without a box.
        cell: row and column of its cell, from 1; None if it is in no grid.
        source: path of the picture; None if it was given as bytes, an image or an array.
    """

    label: str | None
    probability: float
    probabilities: Mapping[str, float] = field(repr=False)  # too long for one line
    warning: str | None
    image: Gray | None = field(repr=False)  # also too long
    box: Box | None = None
    line: int | None = None
    cell: tuple[int, int] | None = None
    source: str | None = None


@dataclass(frozen=True)
class BatchPrediction:
    """Predictions for n images.

    Attributes:
        likeliest: int64 ``[n]``, index of each image's most likely label.
        probabilities: float32 ``[n, labels]``.
        warnings: one per image, as in `Prediction`.
    """

    likeliest: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    warnings: list[str | None]

    def rows(self) -> Iterator[tuple[int, npt.NDArray[np.float32], str | None]]:
        """Yield the three values of each image."""
        return zip(self.likeliest.tolist(), self.probabilities, self.warnings, strict=True)


class Recognizer:
    """Reads digits in pictures.

    A picture is a file's path or content, a Pillow image, or an array; see
    `mnist_cnn.imaging.load.load_gray` for the arrays.
    """

    def __init__(self, model: str | PathLike[str] | None = None) -> None:
        """Open `model`, an ONNX file made by the pipeline; by default the packaged one.

        Raises:
            MnistCnnError: if the model cannot be used.
        """
        path = DEFAULT_MODEL if model is None else Path(model)
        self._model = DigitModel(path)
        properties = self._model.properties
        if not self._model.has_threshold or not properties.keys() >= {LABELS_KEY, CHECKSUM_KEY}:
            raise MnistCnnError(f"{path} was made by an older pipeline; run `dvc repro export`")
        self.labels: tuple[str, ...] = tuple(properties[LABELS_KEY].split(","))
        digits = all(label.isdecimal() for label in self.labels)
        self._no_class = NO_DIGIT if digits else NO_CLASS
        self._unsure = UNSURE if digits else UNSURE_CLASS

    def predict(self, picture: Picture) -> Prediction:
        """Classify a picture of one digit.

        Raises:
            PictureError: if the picture cannot be used.
        """
        return next(self.predict_many([picture]))

    def predict_many(
        self,
        pictures: Iterable[Picture],
        on_error: Callable[[PictureError], object] | None = None,
    ) -> Iterator[Prediction]:
        """Classify pictures of one digit each, in order, a batch at a time.

        Args:
            pictures: any number of pictures, consumed lazily.
            on_error: called with the error of each picture that cannot be used; such a picture is
                skipped.

        Raises:
            PictureError: if a picture cannot be used, and `on_error` is None.
        """
        loaded = _load_each(pictures, on_error)
        while batch := list(islice(loaded, BATCH)):
            predictions = self._classify_batch([image for _, _, image in batch])
            for (source, found, _), prediction in zip(batch, predictions, strict=True):
                chosen = prediction
                if prediction.warning == NO_DIGIT:
                    chosen = self._look_again(found.gray, prediction)
                yield replace(_warned(chosen, found), source=source)

    def _look_again(self, gray: Gray, plain: Prediction) -> Prediction:
        """Return a better prediction than `plain`, which is no digit, or say why there is none."""
        if images := list(alternatives(gray)):
            outputs = self._model.run(np.stack(images))
            sure = self._model.are_surely_digits(outputs, ALTERNATIVE_FACTOR)
            if outputs.not_a_digit is not None and sure.any():
                best = int(outputs.not_a_digit.argmin())
                one = self._batch_prediction(outputs)
                return self._prediction(images[best], *list(one.rows())[best])
        return replace(plain, warning=SEVERAL) if self._holds_several(gray) else plain

    def _holds_several(self, gray: Gray) -> bool:
        """Return whether a picture's ink falls into digits that are each read without doubt."""
        try:
            lines = separate(find_ink(gray))
        except PictureError:  # of thousands of marks
            return False
        digits = [normalize(digit) for line in lines for _, digit in line]
        if not 2 <= len(digits) <= MAX_SEVERAL:
            return False
        doubtful = self._model.run(np.stack(digits)).is_doubtful
        return doubtful is not None and not doubtful.any()

    def read(self, picture: Picture, source: str | None = None) -> list[Prediction]:
        """Read a row or page of digits, in reading order, each with its box.

        Args:
            picture: the page.
            source: its name, if it is not the path of a file.

        Raises:
            PictureError: if the picture cannot be used.
        """
        source = source or source_of(picture)
        with naming_source(picture if source is None else source):
            found = load(picture)
            rules = without_rules(find_ink(found.gray))
            lines = separate(rules.ink)
        placed = [
            (number, rules.cell(*box.middle), box.scaled(found.reduction), image)
            for number, box, image in self._digits(lines)
        ]
        predictions = (_warned(one, found) for one in self.classify(image for *_, image in placed))
        return [
            replace(prediction, box=box, line=number, cell=cell, source=source)
            for (number, cell, box, _), prediction in zip(placed, predictions, strict=True)
        ]

    def _digits(self, lines: list[list[tuple[Box, Plane]]]) -> Iterator[tuple[int, Box, Gray]]:
        """Yield the line, box and image of each digit, those that touch taken apart."""
        marks = [(number, *mark) for number, line in enumerate(lines, start=1) for mark in line]
        if not marks:
            return
        images = [normalize(ink) for _, _, ink in marks]
        several = may_be_several([ink for _, _, ink in marks], self._model.run(np.stack(images)))
        for (number, box, ink), image, doubtful in zip(marks, images, several, strict=True):
            apart = take_apart(ink, self._model) if doubtful else []
            if apart:
                yield from ((number, piece.moved(box.left, box.top), one) for piece, one in apart)
            else:
                yield number, box, image

    def classify(self, images: Iterable[Gray | None]) -> Iterator[Prediction]:
        """Classify images in MNIST's format, uint8 ``[28, 28]``, 0 is paper; None for no ink.

        Raises:
            PictureError: if an image has another shape or dtype.
        """
        waiting = iter(images)
        while batch := list(islice(waiting, BATCH)):
            yield from self._classify_batch(batch)

    def _classify_batch(self, images: Sequence[Gray | None]) -> Iterator[Prediction]:
        inked = [image for image in images if image is not None]
        for pixels in inked:
            if pixels.shape != (IMAGE_SIZE, IMAGE_SIZE) or pixels.dtype != np.uint8:
                shape = " x ".join(map(str, pixels.shape))
                raise PictureError(
                    f"is {pixels.dtype} {shape}, not uint8 {IMAGE_SIZE} x {IMAGE_SIZE} as MNIST's"
                )
        read = self.predict_batch(np.stack(inked)).rows() if inked else iter(())
        for image in images:
            if image is None:
                yield Prediction(None, 0.0, {}, NO_INK, None)
                continue
            yield self._prediction(image, *next(read))

    def _prediction(
        self,
        image: Gray,
        likeliest: int,
        probabilities: npt.NDArray[np.float32],
        warning: str | None,
    ) -> Prediction:
        return Prediction(
            label=self.labels[likeliest],
            probability=float(probabilities[likeliest]),
            probabilities=dict(zip(self.labels, probabilities.tolist(), strict=True)),
            warning=warning,
            image=image,
        )

    def predict_batch(self, images: npt.NDArray[np.uint8]) -> BatchPrediction:
        """Classify images into arrays, which is faster than `classify` for many images.

        Args:
            images: uint8 ``[n, 28, 28]``, 0 is paper, n at least 1; each must have ink.
        """
        return self._batch_prediction(self._model.run(images))

    def _batch_prediction(self, found: Outputs) -> BatchPrediction:
        likeliest = found.probabilities.argmax(axis=1)
        warnings = np.full(len(likeliest), None, np.object_)
        warnings[found.probabilities.max(axis=1) < 0.5] = self._unsure
        warnings[found.is_doubtful] = self._no_class
        return BatchPrediction(likeliest, found.probabilities, warnings.tolist())


def _warned(prediction: Prediction, picture: Loaded) -> Prediction:
    """Return `prediction` with the warning of its picture, too."""
    warnings = filter(None, (prediction.warning, picture.warning))
    return replace(prediction, warning="; ".join(warnings) or None)


def _load_each(
    pictures: Iterable[Picture], on_error: Callable[[PictureError], object] | None
) -> Iterator[tuple[str | None, Loaded, Gray | None]]:
    """Yield each picture's source, itself, and its digit in MNIST's format, None without ink."""
    for picture in pictures:
        try:
            found = load(picture)
        except PictureError as error:
            if on_error is None:
                raise
            on_error(error)
        else:
            yield source_of(picture), found, to_mnist(found.gray)
