import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from optuna.trial import FixedTrial
from ruamel.yaml import YAML

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.experiments.search_space import Sweep, read_sweep
from mnist_cnn_train.pipeline.params import Params, changed

PRUNING = {"kind": "median", "warmup_trials": 1, "warmup_epochs": 1}
PLAN: dict[str, Any] = {
    "trials": 3,
    "objective": "validation_loss",
    "seed": 0,
    "random_trials": 2,
    "pruning": PRUNING,
    "patience": 10,
    "settings": {"train.epochs": 2},
    "ranges": {"train.momentum": {"low": 0.5, "high": 0.9}},
}


Read = Callable[..., Sweep]


@pytest.fixture
def read(params: Params, tmp_path: Path) -> Read:
    """Read a `sweep.yaml` that differs from PLAN by some keys."""

    def read(**changes: Any) -> Sweep:
        path = tmp_path / "sweep.yaml"
        YAML(typ="safe").dump(PLAN | changes, path)
        return read_sweep(params, path)

    return read


def problems(read: Read, changes: dict[str, Any]) -> list[str]:
    with pytest.raises(MnistCnnError) as refusal:
        read(**changes)
    first, *lines = str(refusal.value).splitlines()
    assert re.fullmatch(r"/.*/sweep\.yaml cannot be used:", first)
    return [line.strip() for line in lines]


def test_the_projects_own_sweep_is_valid(params: Params) -> None:
    assert read_sweep(params, REPOSITORY / "sweep.yaml").plan.ranges


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("train.batch_size", {"low": 32, "high": 128, "step": 32}, 64),
        ("train.learning_rate", {"low": 0.01, "high": 1, "log": True}, 0.1),
        ("train.optimizer", ["sgd", "adamw"], "adamw"),
        ("train.augmentation.rotation", {"low": 0, "high": 20}, 5.0),
    ],
)
def test_a_trial_has_the_settings_and_whole_numbers_numbers_and_choices_that_are_searched(
    key: str, written: Any, value: Any, params: Params, read: Read
) -> None:
    sweep = read(ranges={key: written})
    assert sweep.suggest(FixedTrial({key: value})) == Params.model_validate(
        changed(params.model_dump(), {"train.epochs": 2, key: value})
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trials": 0}, "trials: 0; input should be greater than or equal to 1"),
        ({"trails": 3}, "trails: 3; unknown key, do you mean trials?"),
        ({"pruning": {**PRUNING, "kind": "hyper"}}, "pruning.kind: 'hyper'; input should be"),
        ({"ranges": [1]}, "ranges: [1]; input should be"),
        ({"ranges": {}}, "ranges: {}; dictionary should have at least 1"),
        ({"settings": {"train.epoch": 3}}, "settings.train.epoch: 3; unknown key"),
        ({"settings": {"trian.epochs": 3}}, "settings: params.yaml has no such section: trian"),
        ({"settings": {1: 3}}, "settings: params.yaml has no such section: 1"),
        ({"settings": {"train.epochs": 0}}, "settings.train.epochs: 0; input should be"),
        (
            {"ranges": {"model.dropout": [0.0, 0.2], "train.threads": [1, 2]}},
            "ranges.train.threads: 2; should be at most 1, since model.dropout",
        ),
        (
            {"settings": {}, "ranges": {"train.epochs": {"low": 2, "high": 4}}},  # by epoch
            "ranges.train.epochs: should not be searched with pruning",
        ),
    ],
)
def test_a_problem_is_named_in_one_line(change: dict[str, Any], problem: str, read: Read) -> None:
    (line,) = problems(read, change)
    assert problem in line


@pytest.mark.parametrize(
    ("key", "written", "problem"),
    [
        ("train.momentun", [0.1], "0.1; unknown key"),
        ("train.seed", [0, 1], "should not be searched"),
        ("data.split.seed", [0, 1], "should not be searched"),
        ("train.momentum", {"low": 0.1}, "None; input should be a valid number"),
        ("train.momentum", [0.5, "high"], "'high'; input should be a valid number"),
        ("train.momentum", [], "The `choices` must contain"),
        ("train.momentum", 0.5, "0.5; should be a list of"),
        ("train.momentum", {"low": 0.5, "high": 1.5}, "1.5; input should be less than 1"),
        ("train.momentum", {"low": 0.9, "high": 0.5}, "`low <= high` must hold"),
        ("train.momentum", {"low": 0, "high": 0.5, "log": True}, "must hold for `log=True`"),
        ("train.momentum", {"low": 0, "high": 0.5, "lag": 1}, "unexpected keyword argument 'lag'"),
        ("train.optimizer", {"low": "adamw", "high": "sgd"}, "'low': 'adamw'}; should be a list"),
        ("train.batch_size", {"low": 32, "high": 64.5}, "64.5; input should be a valid integer"),
        ("train.unaugmented_epochs", [0, 3], "3; should be at most 2, which is train.epochs"),
    ],
)
def test_a_problem_of_a_range_is_named(key: str, written: Any, problem: str, read: Read) -> None:
    (line,) = problems(read, {"ranges": {key: written}})
    assert line.startswith(f"ranges.{key}: ")
    assert problem in line


def test_every_problem_has_a_line(read: Read) -> None:
    ranges = {"train.momentum": [0.5, 1.5], "train.warmup": [0.1, 2]}
    lines = problems(read, {"ranges": ranges})
    assert [line.split(";")[0] for line in lines] == [
        "ranges.train.momentum: 1.5",
        "ranges.train.warmup: 2",
    ]


def test_trials_of_different_lengths_may_run_without_pruning(read: Read) -> None:
    never = {**PRUNING, "kind": "none"}
    assert read(settings={}, ranges={"train.epochs": {"low": 2, "high": 4}}, pruning=never)


def test_a_missing_or_empty_file_is_reported(params: Params, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    with pytest.raises(MnistCnnError, match=r"there is no .*sweep.yaml here"):
        read_sweep(params, path)
    path.touch()
    with pytest.raises(MnistCnnError, match=r"trials: field required"):
        read_sweep(params, path)
