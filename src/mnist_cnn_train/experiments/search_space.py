"""Search space of a sweep: `sweep.yaml`, validated against `params.yaml` before any work."""

from functools import reduce
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Literal, NamedTuple

from optuna.trial import BaseTrial, FixedTrial
from pydantic import Field, ValidationError

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.experiments.paths import SWEEP
from mnist_cnn_train.pipeline import params as settings
from mnist_cnn_train.pipeline.params import Params, Section, Seed, changed

NOT_SEARCHED = ("train.seed", "train.device", "train.train_on_validation")


class Pruning(Section):
    """When to stop a trial before its last epoch."""

    kind: Literal["median", "none"]
    warmup_trials: int = Field(ge=1, le=10_000)
    warmup_epochs: int = Field(ge=0, le=10_000)


class Plan(Section):
    """Contents of `sweep.yaml`; settings and ranges as written there."""

    trials: int = Field(ge=1, le=1_000_000)
    objective: Literal["validation_loss", "validation_accuracy"]
    seed: Seed
    random_trials: int = Field(ge=1, le=1_000_000)
    pruning: Pruning
    patience: int = Field(ge=1, le=86_400)
    settings: dict[Any, Any] = Field(description="dotted keys of params.yaml with values, or {}")
    ranges: dict[Any, Any] = Field(min_length=1, description="keys of params.yaml with ranges")


class Sweep(NamedTuple):
    """A plan, and the base params of all trials: `params.yaml` with the plan's settings."""

    plan: Plan
    base: Params

    def suggest(self, trial: BaseTrial) -> Params:
        """Return the params of `trial`: a value from each range, all others as in `base`."""
        base = self.base.model_dump()
        changes = {key: _suggest(trial, key, one, base) for key, one in self.plan.ranges.items()}
        return Params.model_validate(changed(base, changes))


def read_sweep(params: Params, path: Path = SWEEP) -> Sweep:
    """Read `path`, and check it against `params`; MnistCnnError has one line per problem."""
    content, base = settings.read_yaml(path), params.model_dump()
    try:
        plan = Plan.model_validate(content if isinstance(content, dict) else {})
        problems = _problems("settings", base, plan.settings) or _range_problems(plan, base)
    except ValidationError as error:
        problems = settings.describe_errors(error, Plan)
    if problems:
        raise MnistCnnError("\n  ".join([f"{path} cannot be used:", *dict.fromkeys(problems)]))
    return Sweep(plan, Params.model_validate(changed(base, plan.settings)))


def _problems(part: str, base: dict[str, Any], changes: dict[Any, Any]) -> list[str]:
    try:
        return [f"{part}.{line}" for line in settings.find_problems(changed(base, changes))]
    except (AttributeError, KeyError, TypeError):
        return [f"{part}: params.yaml has no such section: {', '.join(map(str, changes))}"]


def _range_problems(plan: Plan, params: dict[str, Any]) -> list[str]:
    """Return problems of the ranges: of their keys, else of values, else of types and order."""
    if problems := [f"ranges.{key}: {why}" for key in plan.ranges if (why := _reason(key, plan))]:
        return problems
    base = changed(params, plan.settings)
    values = [(key, value) for key, one in plan.ranges.items() for value in _values(one)]
    # In pairs, since two values may be valid alone but not together.
    pairs = map(dict, combinations_with_replacement(values, 2))
    if problems := [line for pair in pairs for line in _problems("ranges", base, pair)]:
        return problems
    for key, written in plan.ranges.items():
        try:
            _suggest(FixedTrial({key: (*_values(written), None)[0]}), key, written, base)
        except (TypeError, ValueError, ArithmeticError) as error:
            problems.append(f"ranges.{key}: {error}")
    return problems


def _reason(key: Any, plan: Plan) -> str:
    """Return why a setting should not be searched; empty if it may be."""
    if key == "train.epochs" and plan.pruning.kind != "none":
        return "should not be searched with pruning, which compares trials at the same epoch"
    recipe = str(key).startswith(("model.", "train.")) and key not in NOT_SEARCHED
    return "" if recipe else "should not be searched: it is not part of the recipe"


def _values(written: Any) -> list[Any]:
    """Return the choices, or both ends, of a range."""
    if isinstance(written, dict):
        return [written.get("low"), written.get("high")]
    return written if isinstance(written, list) else [written]


def _suggest(trial: BaseTrial, key: str, written: Any, base: dict[str, Any]) -> Any:
    """Suggest a value for `key` from a range as `written`; raises TypeError, or Optuna's errors."""
    value: Any = reduce(dict.__getitem__, key.split("."), base)
    if isinstance(written, list):
        return trial.suggest_categorical(key, written)
    if not isinstance(written, dict) or type(value) not in (int, float):
        raise TypeError(f"{written!r}; should be a list of choices, or low and high of a number")
    return (trial.suggest_int if type(value) is int else trial.suggest_float)(key, **written)
