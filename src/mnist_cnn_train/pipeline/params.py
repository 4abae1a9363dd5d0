"""Typed settings from `params.yaml`, validated as a whole before any work starts."""

import copy
import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import attrgetter, getitem
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.catalog import TRAINING_IMAGES
from mnist_cnn_train.pipeline.paths import PARAMS
from mnist_cnn_train.pipeline.yaml_file import parse_yaml as parse_yaml
from mnist_cnn_train.pipeline.yaml_file import read_yaml as read_yaml

Source = Annotated[str, Field(pattern=r"^(torchvision|npm|folder:.+)$")]
MAX_IMAGES = 10_000_000
# Former names of settings, for users with an older params.yaml.
RENAMED = {
    "data.test_share": "data.test_fraction",
    "model.normalisation": "model.normalization",
    "model.views": "model.tta_views",
    "train.final_fit": "train.train_on_validation",
    "train.clean_epochs": "train.unaugmented_epochs",
    "train.hardest": "train.hard_example_fraction",
    "train.averaging": "train.ema_decay",
    "evaluate.suite_images": "evaluate.corruption_test_images",
    "export.flagged": "export.max_false_alarm_rate",
    "export.int8_loss": "export.max_int8_accuracy_drop",
}

Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _require_int(value: object) -> object:
    if type(value) is not int:  # pydantic takes True and 1.0 for the literal 1
        raise PydanticCustomError("int_type", "Input should be a valid integer")
    return value


class Section(BaseModel):
    """A section of `params.yaml`: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Split(Section):
    """Sizes of the training and validation sets, both taken from the training images."""

    train_images: int = Field(ge=10, le=MAX_IMAGES)
    validation_images: int = Field(ge=10, le=MAX_IMAGES)
    seed: Seed


class Data(Section):
    """The dataset, its sources, and its split."""

    dataset: Literal["mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "folder"]
    test_fraction: float = Field(gt=0, lt=1)
    sources: list[Source] = Field(min_length=1)
    fonts: bool
    split: Split


class Synthesize(Section):
    """How many images are drawn for training, beside those of the data set."""

    font_digits: int = Field(ge=0, le=MAX_IMAGES)
    form_digits: int = Field(ge=0, le=MAX_IMAGES)
    redrawn_digits: int = Field(ge=0, le=MAX_IMAGES)
    non_digits: int = Field(ge=0, le=MAX_IMAGES)
    seed: Seed


class Model(Section):
    """The network's settings."""

    architecture: Literal["base", "fast", "deep", "reader"]
    dropout: float = Field(ge=0, lt=1)
    normalization: Literal["fixed", "image"]
    not_a_digit: bool
    tta_views: Annotated[Literal[1, 5, 9], BeforeValidator(_require_int)]


class Augmentation(Section):
    """Half-widths of the uniform ranges of random distortions, and the fraction corrupted."""

    rotation: float = Field(ge=0, le=180)
    shear: float = Field(ge=0, le=60)
    translation: Fraction
    scale: float = Field(ge=0, lt=1)
    corruption: Fraction

    @property
    def distorts_nothing(self) -> bool:
        """Whether images keep their geometry."""
        return not (self.rotation or self.shear or self.translation or self.scale)


class Train(Section):
    """The training recipe."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int = Field(ge=1, le=1024)
    launcher: Literal["none", "torchrun"]
    processes: int = Field(ge=1, le=1024)
    seed: Seed
    epochs: int = Field(ge=1, le=10_000)
    unaugmented_epochs: int = Field(ge=0)
    hard_example_fraction: float = Field(gt=0, le=1)
    batch_size: int = Field(ge=2, le=MAX_IMAGES)
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float = Field(gt=0, le=10)
    momentum: float = Field(ge=0, lt=1)
    schedule: Literal["linear", "constant"]
    warmup: float = Field(ge=0, lt=1)
    weight_decay: Fraction
    label_smoothing: float = Field(ge=0, lt=1)
    ema_decay: float = Field(ge=0, lt=1)
    augmentation: Augmentation
    train_on_validation: bool


class Evaluate(Section):
    """Evaluation of the trained model, and its minimum accuracy."""

    min_accuracy: Fraction
    calibration_bins: int = Field(ge=1, le=1000)
    corruption_test_images: int = Field(ge=0, le=MAX_IMAGES)
    reader_suite: bool


class Export(Section):
    """Export to ONNX, and the limits that its checks enforce."""

    tolerance: float = Field(gt=0, le=1)
    max_int8_accuracy_drop: Fraction
    max_false_alarm_rate: Fraction


class Params(Section):
    """All settings in `params.yaml`."""

    data: Data
    synthesize: Synthesize
    model: Model
    train: Train
    evaluate: Evaluate
    export: Export

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> Self:
        conflicts = [
            f"{key}: {value}; should be at most {limit}, {reason}"
            for key, limit, reason in _limits(self)
            if (value := attrgetter(key)(self)) > limit
        ]
        fraction = self.train.hard_example_fraction
        if self.train.launcher == "torchrun" and fraction < 1:
            conflicts.append(
                f"train.hard_example_fraction: {fraction}; should be 1, with train.launcher "
                "torchrun, whose processes know only their images' losses"
            )
        if self.evaluate.reader_suite and not self.data.fonts:
            conflicts.append(
                "evaluate.reader_suite: True; should be false, unless data.fonts is true"
            )
        if conflicts:
            raise ValueError(*conflicts)
        return self


def _limits(params: Params) -> Iterator[tuple[str, int, str]]:
    """Yield settings limited by other settings: dotted key, largest allowed value, reason."""
    train, data, training = params.train, params.data, params.data.split.train_images
    yield "train.unaugmented_epochs", train.epochs, "which is train.epochs"
    yield "train.batch_size", training, "which is data.split.train_images"
    images = TRAINING_IMAGES.get(data.dataset, MAX_IMAGES)
    yield "data.split.train_images", images, f"which is all that {data.dataset} has"
    if training <= images:
        left = "the images that data.split.train_images leaves"
        yield "data.split.validation_images", images - training, left
    if not data.fonts:
        yield "synthesize.font_digits", 0, "unless data.fonts is true"
    if not (data.fonts and params.model.not_a_digit):
        yield "synthesize.non_digits", 0, "unless data.fonts and model.not_a_digit are true"
    if params.model.dropout:
        yield "train.threads", 1, "since model.dropout cannot be repeated on several threads"
    if train.launcher == "none":
        yield "train.processes", 1, "unless train.launcher is torchrun"
    else:
        launched = "with train.launcher torchrun"
        yield "train.threads", 1, f"{launched}, which computes on one thread in each process"
        yield "model.dropout", 0, f"{launched}, whose processes' draws cannot be resumed"


def load_params(path: Path = PARAMS) -> Params:
    """Read and validate `path`.

    Raises:
        MnistCnnError: with one line per problem: the dotted key, its value, and what is wrong.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise MnistCnnError(f"{path} should hold the sections {', '.join(Params.model_fields)}")
    if problems := find_problems(content):
        raise MnistCnnError(f"{path} cannot be used:\n  " + "\n  ".join(problems))
    return Params.model_validate(content)


def changed(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Copy nested sections, replacing the values of some dotted keys.

    Raises:
        KeyError: if a section does not exist.
    """
    result = copy.deepcopy(content)
    for key, value in changes.items():
        *sections, name = key.split(".")
        reduce(getitem, sections, result)[name] = value
    return result


def find_problems(content: dict[str, Any]) -> list[str]:
    """Return one line for each reason why `content` is not valid `Params`."""
    try:
        Params.model_validate(content)
    except ValidationError as error:
        return describe_errors(error, Params)
    return []


def describe_errors(error: ValidationError, model: type[Section]) -> list[str]:
    """Return one line for each problem in a validation error of `model`."""
    return [line for details in error.errors() for line in _lines(details, model)]


def section_at(model: type[Section], keys: Sequence[str]) -> type[Section]:
    """Return the section at the path `keys` in `model`; KeyError if there is none."""
    for key in keys:
        model = model.model_fields[key].annotation  # type: ignore[assignment]  # of a section
    return model


def _lines(details: ErrorDetails, model: type[Section]) -> list[str]:
    if details["type"] == "value_error":  # from a validator: one line per argument
        return list(details["ctx"]["error"].args)
    *sections, name = map(str, details["loc"])
    key = ".".join((*sections, name))
    message = details["msg"][0].lower() + details["msg"][1:]
    if details["type"] == "missing":
        return [f"{key}: {message}"]
    if details["type"] == "extra_forbidden":
        known = section_at(model, sections).model_fields
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"do you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        new = RENAMED.get(key)
        message = f"this setting is now called {new}" if new else f"unknown key, {hint}"
    return [f"{key}: {reprlib.repr(details['input'])}; {message}"]
