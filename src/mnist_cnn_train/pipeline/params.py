"""A typed view of `params.yaml`, checked as a whole before any work starts."""

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.catalog import TRAINING_IMAGES
from mnist_cnn_train.pipeline.paths import PARAMS

Source = Annotated[
    str,
    Field(pattern=r"^(torchvision|npm|folder:.+)$", description="torchvision, npm or folder:PATH"),
]
MAX_IMAGES = 10_000_000
# Earlier names of settings, for who brings an older params.yaml.
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


class Section(BaseModel):
    """A part of `params.yaml`: no other keys, no conversions, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Split(Section):
    """How many of the training images are learned from, and how many are held out."""

    train_images: int = Field(ge=10, le=MAX_IMAGES)
    validation_images: int = Field(ge=10, le=MAX_IMAGES)
    seed: Seed


class Data(Section):
    """Which images, where they come from, and how they are split."""

    dataset: Literal["mnist", "fashion-mnist", "kmnist", "qmnist", "emnist-digits", "folder"]
    test_fraction: float = Field(gt=0, lt=1)
    sources: list[Source] = Field(min_length=1)
    split: Split


class Model(Section):
    """What may vary in the network."""

    architecture: Literal["base", "fast", "deep", "robust"]
    dropout: float = Field(ge=0, lt=1)
    normalization: Literal["fixed", "image"]
    tta_views: int = Field(ge=1, le=9)


class Augmentation(Section):
    """Half-widths of the uniform ranges that random distortions are drawn from, and damage."""

    rotation: float = Field(ge=0, le=180)
    shear: float = Field(ge=0, le=60)
    translation: Fraction
    scale: float = Field(ge=0, lt=1)
    corruption: Fraction

    @property
    def distorts_nothing(self) -> bool:
        """Whether every image keeps its geometry."""
        return not (self.rotation or self.shear or self.translation or self.scale)


class Train(Section):
    """The recipe."""

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
    """What is asked of the trained model."""

    min_accuracy: Fraction
    calibration_bins: int = Field(ge=1, le=1000)
    corruption_test_images: int = Field(ge=0, le=MAX_IMAGES)


class Export(Section):
    """What is asked of the ONNX file."""

    opset: int = Field(ge=18, le=23)
    tolerance: float = Field(gt=0, le=1)
    calibration_images: int = Field(ge=1, le=MAX_IMAGES)
    max_int8_accuracy_drop: Fraction
    int8_tolerance: float = Field(gt=0, le=100)
    max_false_alarm_rate: Fraction


class Params(Section):
    """Everything in `params.yaml`."""

    data: Data
    model: Model
    train: Train
    evaluate: Evaluate
    export: Export


def load_params(path: Path = PARAMS) -> Params:
    """Read and check `path`.

    It is parsed as YAML 1.2 by the parser that DVC uses: what DVC tracks is what we read
    (in YAML 1.1, ``1e-3`` would be a string and ``on`` a truth value). DVC takes the parser's
    faster half in C, which reads the same, but says less of what is wrong.

    Raises:
        MnistCnnError: one line for each problem: the dotted key, its value, what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise MnistCnnError(f"{path} should hold the sections {', '.join(Params.model_fields)}")
    if problems := find_problems(content):
        raise MnistCnnError(f"{path} cannot be used:\n  " + "\n  ".join(problems))
    return Params.model_validate(content)


def read_yaml(path: Path) -> Any:
    """The content of a file of settings at the repository's root.

    Raises:
        MnistCnnError: there is no such file, or it is not valid YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise MnistCnnError(f"there is no {path} here; run from the repository's root") from None
    except UnicodeDecodeError as error:
        raise MnistCnnError(f"{path} is not valid YAML: {_yaml_problem(error)}") from None


def parse_yaml(text: str, name: str) -> Any:
    """The content of the YAML file `name`, whose `text` is given; raises MnistCnnError."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: no date, no integer
        raise MnistCnnError(f"{name} is not valid YAML: {_yaml_problem(error)}") from None


def changed(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `content`, sections within sections, with other values for some dotted keys.

    Raises:
        KeyError: there is no such section.
    """
    result = copy.deepcopy(content)
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = result
        for section in sections:
            place = place[section]
        place[last] = value
    return result


def find_problems(content: dict[str, Any]) -> list[str]:
    """One line for each that keeps `content` from being `Params`."""
    try:
        Params.model_validate(content)
    except ValidationError as error:
        refused = {".".join(map(str, details["loc"])) for details in error.errors()}
        return describe_errors(error, Params) + _conflicts(content, refused)
    return _conflicts(content, set())


def describe_errors(error: ValidationError, model: type[Section]) -> list[str]:
    """A line for each thing that keeps a content from being a `model`."""
    return [_problem(details, model) for details in error.errors()]


def _yaml_problem(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: "
        return where + " ".join(str(error.problem).split())
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())


def _problem(details: ErrorDetails, model: type[Section]) -> str:
    location = [str(part) for part in details["loc"]]
    key = ".".join(location)
    if details["type"] in ("extra_forbidden", "invalid_key"):
        known = list(_schema(location[:-1], model)["properties"])
        close = difflib.get_close_matches(location[-1], known, n=1)
        if key in RENAMED:
            return f"{key}: {details['input']!r}; this setting is now called {RENAMED[key]}"
        hint = f"do you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{key}: {details['input']!r}; unknown key, {hint}"
    value = "missing" if details["type"] == "missing" else repr(details["input"])
    return f"{key}: {value}; should be {_allowed(_schema(location, model))}"


def _conflicts(content: dict[str, Any], refused: set[str]) -> list[str]:
    """What cannot work together, among the numbers that are not `refused` by themselves."""

    def setting(key: str) -> object:
        value: object = None if key in refused else content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def number(key: str) -> float | None:
        value = setting(key)
        return value if isinstance(value, int | float) else None

    conflicts = []
    for key, limit in (
        ("train.unaugmented_epochs", "train.epochs"),
        ("train.batch_size", "data.split.train_images"),
        ("export.calibration_images", "data.split.train_images"),
    ):
        value, most = number(key), number(limit)
        if value is not None and most is not None and value > most:
            conflicts.append(f"{key}: {value}; should be at most {limit}, which is {most}")
    dropout, threads = number("model.dropout"), number("train.threads")
    if dropout and threads and threads > 1:
        conflicts.append(
            f"train.threads: {threads}; should be 1 with model.dropout, whose draws on several "
            "threads cannot be repeated"
        )
    launcher, processes = setting("train.launcher"), number("train.processes")
    if launcher == "none" and processes and processes > 1:
        conflicts.append(
            f"train.processes: {processes}; should be 1 unless train.launcher is torchrun"
        )
    if launcher == "torchrun":
        for key, wanted, reason in (
            ("train.threads", 1, "which computes on one thread in each process"),
            ("train.hard_example_fraction", 1, "whose processes know only their images' losses"),
            ("model.dropout", 0, "whose processes' draws cannot be resumed"),
        ):
            if (value := number(key)) is not None and value != wanted:
                conflicts.append(
                    f"{key}: {value}; should be {wanted} with train.launcher torchrun, {reason}"
                )
    training, validation = (number(f"data.split.{part}_images") for part in ("train", "validation"))
    images = TRAINING_IMAGES.get(str(setting("data.dataset")), MAX_IMAGES)
    if training is not None and validation is not None and training + validation > images:
        left = images - training
        conflicts.append(
            f"data.split.validation_images: {validation}; should be at most {left}, the images "
            "that data.split.train_images leaves"
            if left >= 0
            else f"data.split.train_images: {training}; should be at most {images}, which is all "
            f"that {setting('data.dataset')} has"
        )
    return conflicts


def _schema(location: list[str], model: type[Section]) -> dict[str, Any]:
    """The JSON schema of the setting at `location` in a `model`."""
    root = model.model_json_schema()
    schema: dict[str, Any] = root
    for part in location:
        schema = schema["items"] if schema.get("type") == "array" else schema["properties"][part]
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "properties" in schema:
        return "a section with the keys " + ", ".join(schema["properties"])
    if schema["type"] == "array":
        return "a list with one or more of: " + _allowed(schema["items"])
    if schema["type"] in ("string", "object"):
        return str(schema["description"])
    if schema["type"] == "boolean":
        return "true or false"
    bounds = [
        f"{words} {schema[bound]}"
        for bound, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if bound in schema
    ]
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    return ", ".join(filter(None, (kind, " and ".join(bounds))))
