"""What a sweep tries: a typed view of `sweep.yaml`, checked against `params.yaml` as a whole."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.experiments.dvc import Setting
from mnist_cnn_train.experiments.paths import SWEEP
from mnist_cnn_train.pipeline.params import (
    Params,
    Section,
    Seed,
    changed,
    describe_errors,
    find_problems,
    read_yaml,
    section_at,
)

# They say nothing about a recipe, or leave nothing to judge it by.
NOT_SEARCHED = {
    "train.seed": "the best of several seeds is luck",
    "train.device": "it is no part of the recipe",
    "train.train_on_validation": "it leaves no images to evaluate a trial by",
}


class Pruning(Section):
    """When a trial is stopped before its last epoch."""

    kind: Literal["median", "none"]
    warmup_trials: int = Field(ge=1, le=10_000)
    warmup_epochs: int = Field(ge=0, le=10_000)


class Range(Section):
    """The numbers from `low` to `high`, both included; those of whole steps, if there is one."""

    low: float
    high: float
    log: bool = False
    step: float = Field(default=0.0, gt=0)


class Plan(Section):
    """Everything in `sweep.yaml`, the last two parts as they are written there."""

    trials: int = Field(ge=1, le=1_000_000)
    objective: Literal["validation_loss", "validation_accuracy"]
    seed: Seed
    random_trials: int = Field(ge=1, le=1_000_000)
    pruning: Pruning
    patience: int = Field(ge=1, le=86_400)
    settings: dict[Any, Any]
    ranges: dict[Any, Any]


Space = Range | list[Setting]


@dataclass(frozen=True)
class Sweep:
    """A plan; what it searches, by dotted key; and the params that each trial starts from."""

    plan: Plan
    spaces: dict[str, Space]
    base: Params

    def params(self, changes: dict[str, Setting]) -> Params:
        """Those of a trial with `changes`."""
        return Params.model_validate(changed(self.base.model_dump(), changes))

    def kind(self, key: str) -> type:
        """The type of the setting at a dotted key."""
        return type(_flat(self.base.model_dump())[key])


def read_sweep(params: Params, path: Path = SWEEP) -> Sweep:
    """Read `path`, and check it against `params`.

    Raises:
        MnistCnnError: there is no such file, or one line for each problem: the dotted key, its
            value, what is allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise MnistCnnError(f"{path} should hold {', '.join(Plan.model_fields)}")
    try:
        plan = Plan.model_validate(content)
    except ValidationError as error:
        raise _refusal(path, describe_errors(error, Plan)) from None
    base = params.model_dump()
    if problems := list(_settings_problems(plan, base)):
        raise _refusal(path, problems)
    base = changed(base, plan.settings)
    spaces: dict[str, Space] = {}
    for key, written in plan.ranges.items():
        try:
            spaces[key] = _space(key, written, plan, base)
        except _RangeError as error:
            problems += error.args
    if problems := problems or list(_value_problems(spaces, base)):
        raise _refusal(path, problems)
    return Sweep(plan, spaces, Params.model_validate(base))


class _RangeError(Exception):
    """What is wrong with a range: one line for each argument."""


def _refusal(path: Path, problems: list[str]) -> MnistCnnError:
    return MnistCnnError(f"{path} cannot be used:\n  " + "\n  ".join(problems))


def _settings_problems(plan: Plan, base: dict[str, Any]) -> Iterator[str]:
    """What keeps the trials from starting with the plan's settings."""
    known = _flat(base)
    for key, value in plan.settings.items():
        if key not in known:
            yield f"settings.{key}: {value!r}; {_unknown(key, base)}"
        elif not key.startswith(("data.split.", "model.", "train.")):
            yield f"settings.{key}: {value!r}; changes nothing in a trial"
        elif key in plan.ranges:
            yield f"settings.{key}: {value!r}; is among the ranges too"
    start = changed(base, {key: plan.settings[key] for key in plan.settings.keys() & known})
    yield from (f"settings.{line}" for line in find_problems(start))
    if start["train"]["train_on_validation"] is True:
        yield (
            "train.train_on_validation: True; should be false in a sweep, since it leaves no "
            "images to evaluate a trial by"
        )
    if not plan.ranges:
        yield "ranges: {}; should be one or more dotted keys of params.yaml with ranges"


def _space(key: Any, written: Any, plan: Plan, base: dict[str, Any]) -> Space:
    """The values that are searched for the setting `key`, by what is `written` for it.

    Raises:
        _RangeError: it cannot be searched so.
    """
    name = f"ranges.{key}"
    if key not in _flat(base):
        raise _RangeError(f"{name}: {_unknown(key, base)}")
    if key in NOT_SEARCHED or not key.startswith(("model.", "train.")):
        reason = NOT_SEARCHED.get(key, "only settings of model and train change the training")
        raise _RangeError(f"{name}: should not be searched: {reason}")
    if key == "train.epochs" and plan.pruning.kind != "none":
        raise _RangeError(
            f"{name}: should not be searched with pruning, which compares trials epoch by epoch"
        )
    if isinstance(written, list):
        if len(written) < 2 or any(one == other for one, other in combinations(written, 2)):
            raise _RangeError(f"{name}: {written!r}; should be two or more different choices")
        return written
    *sections, setting = key.split(".")
    kind = section_at(Params, sections).model_fields[setting].annotation
    if kind not in (int, float) or not isinstance(written, dict):
        either = " or low and high" if kind in (int, float) else ""
        raise _RangeError(f"{name}: {written!r}; should be a list of choices{either}")
    try:
        space = Range.model_validate(written)
    except ValidationError as error:
        raise _RangeError(*(f"{name}.{line}" for line in describe_errors(error, Range))) from None
    _check_range(name, space, whole=kind is int)
    return space


def _check_range(name: str, space: Range, whole: bool) -> None:
    low, high, step = space.low, space.high, space.step
    if not low < high:
        raise _RangeError(f"{name}.high: {high:g}; should be above low, which is {low:g}")
    if space.log and low <= 0:
        raise _RangeError(f"{name}.low: {low:g}; should be above 0 on a logarithmic scale")
    if space.log and step:
        raise _RangeError(f"{name}.step: {step:g}; should not be there on a logarithmic scale")
    if step and (step > high - low or abs((high - low) / step % 1 - 0.5) < 0.5 - 1e-6):
        raise _RangeError(f"{name}.step: {step:g}; should divide the way from low to high")
    if whole:
        for field in ("low", "high", "step"):
            value = getattr(space, field)
            if not value.is_integer():
                raise _RangeError(f"{name}.{field}: {value:g}; should be a whole number")


def _value_problems(spaces: dict[str, Space], base: dict[str, Any]) -> list[str]:
    """What params refuse of the bounds and choices: each alone, then each two together."""
    values = [
        (key, value)
        for key, space in spaces.items()
        for value in (space if isinstance(space, list) else bounds(space, type(_flat(base)[key])))
    ]
    problems = [
        line
        if (line := f"ranges.{problem}").startswith(f"ranges.{key}: ")
        else f"ranges.{key} at {value!r}: {problem}"
        for key, value in values
        for problem in find_problems(changed(base, {key: value}))
    ]
    return problems or [
        f"ranges.{key} at {value!r} and {other} at {its!r}: {problem}"
        for (key, value), (other, its) in combinations(values, 2)
        if key != other
        for problem in find_problems(changed(base, {key: value, other: its}))
    ]


def bounds(space: Range, kind: type) -> tuple[Setting, Setting]:
    """The bounds of a range as values of a setting of that kind, int or float."""
    return kind(space.low), kind(space.high)


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings in `content`, sections within sections, by their dotted keys."""
    settings: dict[str, Any] = {}
    for key, value in content.items():
        settings |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return settings


def _unknown(key: object, base: dict[str, Any]) -> str:
    close = difflib.get_close_matches(str(key), _flat(base), n=1)
    return "unknown key of params.yaml" + (f", do you mean {close[0]}?" if close else "")
