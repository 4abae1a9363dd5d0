"""Read digits in any picture by an exported network; needs neither torch nor the pipeline."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from mnist_cnn.contract import DIGEST, INPUT, LABELS, LEAST_LOGITS, OUTPUTS
from mnist_cnn.digits import IMAGE_SIZE
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.paths import ONNX_MODEL
from mnist_cnn.pictures import Grey, Picture, PictureError, load_grey, load_reduced
from mnist_cnn.preprocessing import Box, find_ink, normalise, separate, to_mnist
from mnist_cnn.seal import is_broken

NO_INK = "no ink was found"
NO_DIGIT = "may not be a digit"
UNSURE = "may be another digit"  # each other one may be less likely, but not all together
# What they say where the labels are no digits.
NO_CLASS = "may be of no class"
UNSURE_CLASS = "may be of another class"

# In bytes; 2,000 times what the pipeline makes.
LARGEST_MODEL = 100_000_000

# Larger batches fall out of the processor's cache.
BATCH = 32


@dataclass(frozen=True)
class Reading:
    """What is read in one picture, or in one box of it.

    Attributes:
        label: the likeliest digit; None where there is no ink.
        probability: of `label`, from 0 to 1; 0 where there is none.
        probabilities: of each label, in the model's order; empty where there is no ink.
        warning: why this should not be trusted; None where nothing speaks against it.
        image: what the network saw, uint8 ``[28, 28]``; None where there is no ink.
        box: where in the picture, in its own pixels, once turned upright; None for all of it.
        line: of the page, from 1; None without a box.
    """

    label: str | None
    probability: float
    probabilities: Mapping[str, float]
    warning: str | None
    image: Grey | None
    box: Box | None = None
    line: int | None = None


@dataclass(frozen=True)
class Judged:
    """What is read in n images.

    Attributes:
        likeliest: int64 ``[n]``, the place of each one's label in the model's order.
        probabilities: float32 ``[n, labels]``.
        warnings: n of them, as in `Reading`.
    """

    likeliest: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    warnings: list[str | None]

    def rows(self) -> Iterator[tuple[int, npt.NDArray[np.float32], str | None]]:
        """The three for each image."""
        return zip(self.likeliest.tolist(), self.probabilities, self.warnings, strict=True)


def default_model() -> Path:
    """The ONNX file in the installed package; in a checkout, what a pipeline made.

    That of the current folder comes first, then that of the checkout that the code is from.
    """
    packaged = Path(__file__).with_name(ONNX_MODEL.name)
    made = Path(__file__).parents[2] / ONNX_MODEL
    return next((path for path in (packaged, ONNX_MODEL) if path.is_file()), made)


def open_model(path: Path, as_written: bool = False) -> onnxruntime.InferenceSession:
    """Open an ONNX file for the CPU, on one thread.

    Args:
        path: of the file.
        as_written: run it without optimization, which takes longer, and gives the same bits on
            every processor.

    Raises:
        MnistCnnError: there is no such file, it is damaged or too large, or onnxruntime cannot
            read it.
    """
    if not path.is_file():
        raise MnistCnnError(f"there is no file {path}; `make repro` makes {ONNX_MODEL}")
    if path.stat().st_size > LARGEST_MODEL:
        raise MnistCnnError(f"{path} is too large for a digit reader, over {LARGEST_MODEL:,} bytes")
    content = path.read_bytes()
    if is_broken(content):
        raise MnistCnnError(
            f"{path} is damaged: its SHA-256 is not the one noted in it; copy it anew, or run "
            "`make mend` where it was made"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's failures share no other base
        reason = str(error).rpartition(" : ")[2].strip()
        raise MnistCnnError(f"{path} is not a usable ONNX model: {reason}") from None


def open_reader(path: Path, as_written: bool = False) -> onnxruntime.InferenceSession:
    """Open an ONNX file, as `open_model` does, that takes and gives what `mnist_cnn.contract` says.

    Raises:
        MnistCnnError: what `open_model` raises, or it takes or gives something else.
    """
    session = open_model(path, as_written)
    inputs = [(value.name, value.type) for value in session.get_inputs()]
    outputs = {value.name for value in session.get_outputs()}
    if inputs != [(INPUT, "tensor(uint8)")] or not outputs >= set(OUTPUTS):
        raise MnistCnnError(
            f"{path} is not a model of mnist-cnn's pipeline, nor one that takes uint8 images as "
            f"{INPUT!r} and gives {' and '.join(OUTPUTS)}"
        )
    return session


def noted_least_logits(session: onnxruntime.InferenceSession) -> list[float]:
    """The bound of each label, below which an image may be no digit; none where none is noted."""
    noted = session.get_modelmeta().custom_metadata_map.get(LEAST_LOGITS)
    return [float(bound) for bound in noted.split(",")] if noted else []


def read_logits(
    session: onnxruntime.InferenceSession, images: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Logits, ``[n, 10]``, of uint8 ``[n, 28, 28]``, by a model that `open_reader` opened."""
    return _read(session, OUTPUTS[:1], images)[0]


def _read(
    session: onnxruntime.InferenceSession, outputs: list[str], images: npt.NDArray[np.uint8]
) -> list[npt.NDArray[np.float32]]:
    batches = [
        session.run(outputs, {INPUT: images[start : start + BATCH]})
        for start in range(0, len(images), BATCH)
    ]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


class Recognizer:
    """Reads digits in pictures.

    A picture is a file's path or content, an image of Pillow's, or an array; `load_grey` of
    `mnist_cnn.pictures` says which arrays.
    """

    def __init__(self, model: str | PathLike[str] | None = None) -> None:
        """Open `model`, an ONNX file of the pipeline's; by default the package's own.

        Raises:
            MnistCnnError: it cannot be used.
        """
        path = default_model() if model is None else Path(model)
        self._session = open_reader(path)
        properties = self._session.get_modelmeta().custom_metadata_map
        if not properties.keys() >= {LABELS, LEAST_LOGITS, DIGEST}:
            raise MnistCnnError(f"{path} was made by an older pipeline; run `dvc repro export`")
        self.labels: tuple[str, ...] = tuple(properties[LABELS].split(","))
        digits = all(label.isdecimal() for label in self.labels)
        self._no_class = NO_DIGIT if digits else NO_CLASS
        self._unsure = UNSURE if digits else UNSURE_CLASS
        self._least_logits = np.asarray(noted_least_logits(self._session), np.float32)

    def predict(self, picture: Picture) -> Reading:
        """Read a picture that holds one digit.

        Raises:
            PictureError: it cannot be used as a picture.
        """
        return next(self.predict_many([picture]))

    def predict_many(self, pictures: Iterable[Picture]) -> Iterator[Reading]:
        """Read pictures of one digit each, in their order, a batch at a time.

        Raises:
            PictureError: as soon as one cannot be used; to read the others all the same, call
                `load_grey` first, and give what it returns.
        """
        return self.classify(to_mnist(load_grey(picture)) for picture in pictures)

    def read(self, picture: Picture) -> list[Reading]:
        """Read a row or a page of separate digits, in reading order, each with its box.

        Raises:
            PictureError: it cannot be used as a picture.
        """
        grey, reduction = load_reduced(picture)
        placed = [
            (number, box.scaled(reduction), normalise(digit))
            for number, line in enumerate(separate(find_ink(grey)), start=1)
            for box, digit in line
        ]
        read = self.classify(image for _, _, image in placed)
        return [
            replace(reading, box=box, line=number)
            for (number, box, _), reading in zip(placed, read, strict=True)
        ]

    def classify(self, images: Iterable[Grey | None]) -> Iterator[Reading]:
        """Read images that are as MNIST's, uint8 ``[28, 28]``, 0 for paper; None is no ink.

        Raises:
            PictureError: one has another shape or dtype.
        """
        waiting = iter(images)
        while batch := list(islice(waiting, BATCH)):
            yield from self._classify_batch(batch)

    def _classify_batch(self, images: Sequence[Grey | None]) -> Iterator[Reading]:
        inked = [image for image in images if image is not None]
        for pixels in inked:
            if pixels.shape != (IMAGE_SIZE, IMAGE_SIZE) or pixels.dtype != np.uint8:
                raise PictureError(
                    f"an image of MNIST's kind is uint8 {IMAGE_SIZE} x {IMAGE_SIZE}, not "
                    f"{pixels.dtype} {' x '.join(map(str, pixels.shape))}"
                )
        read = self.judge(np.stack(inked)).rows() if inked else iter(())
        for image in images:
            if image is None:
                yield Reading(None, 0.0, {}, NO_INK, None)
                continue
            likeliest, probabilities, warning = next(read)
            yield Reading(
                label=self.labels[likeliest],
                probability=float(probabilities[likeliest]),
                probabilities=dict(zip(self.labels, probabilities.tolist(), strict=True)),
                warning=warning,
                image=image,
            )

    def judge(self, images: npt.NDArray[np.uint8]) -> Judged:
        """What `classify` reads, as arrays, which is quicker where there are many.

        Args:
            images: uint8 ``[n, 28, 28]``, 0 for paper, n at least 1; each has ink.
        """
        logits, probabilities = _read(self._session, OUTPUTS, images)
        likeliest = probabilities.argmax(axis=1)
        rows = np.arange(len(images))
        warnings = np.full(len(images), None, np.object_)
        warnings[probabilities[rows, likeliest] < 0.5] = self._unsure
        warnings[logits[rows, likeliest] < self._least_logits[likeliest]] = self._no_class
        return Judged(likeliest, probabilities, warnings.tolist())
