from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from optuna.trial import FixedTrial
from ruamel.yaml import YAML

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.experiments.search_space import Sweep, read_sweep
from mnist_cnn_train.pipeline.params import Params, changed

PLAN: dict[str, Any] = {
    "trials": 3,
    "objective": "validation_loss",
    "seed": 0,
    "random_trials": 2,
    "pruning": {"kind": "median", "warmup_trials": 1, "warmup_epochs": 1},
    "patience": 10,
    "settings": {"train.epochs": 2},
    "ranges": {"train.momentum": {"low": 0.5, "high": 0.9}},
}


def read(plan: Any, params: Params, folder: Path) -> Sweep:
    path = folder / "sweep.yaml"
    YAML(typ="safe").dump(plan, path)
    return read_sweep(params, path)


def problems(plan: Any, params: Params, folder: Path) -> list[str]:
    with pytest.raises(MnistCnnError) as refusal:
        read(plan, params, folder)
    first, *lines = str(refusal.value).splitlines()
    assert first == f"{folder / 'sweep.yaml'} cannot be used:"
    return [line.strip() for line in lines]


def test_the_projects_own_sweep_is_valid(params: Params) -> None:
    assert read_sweep(params, REPOSITORY / "sweep.yaml").plan.ranges


def test_a_trial_has_the_settings_and_its_own_values(params: Params, tmp_path: Path) -> None:
    sweep = read(PLAN, params, tmp_path)
    trial = sweep.suggest(FixedTrial({"train.momentum": 0.7}))
    assert (trial.train.epochs, trial.train.momentum) == (2, 0.7)
    assert trial.model == params.model


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("train.batch_size", {"low": 32, "high": 128, "step": 32}, 64),
        ("train.learning_rate", {"low": 0.01, "high": 1, "log": True}, 0.1),
        ("train.optimizer", ["sgd", "adamw"], "adamw"),
        ("train.augmentation.rotation", {"low": 0, "high": 20}, 5.0),
    ],
)
def test_whole_numbers_numbers_and_choices_are_searched(
    key: str, written: Any, value: Any, params: Params, tmp_path: Path
) -> None:
    sweep = read(PLAN | {"ranges": {key: written}}, params, tmp_path)
    assert sweep.suggest(FixedTrial({key: value})) == Params.model_validate(
        changed(params.model_dump(), {"train.epochs": 2, key: value})
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trials": 0}, "trials: 0; input should be greater than or equal to 1"),
        ({"trails": 3}, "trails: 3; unknown key, do you mean trials?"),
        (
            {"pruning": PLAN["pruning"] | {"kind": "hyper"}},
            "pruning.kind: 'hyper'; input should be",
        ),
        ({"ranges": [1]}, "ranges: [1]; input should be"),
        ({"ranges": {}}, "ranges: {}; dictionary should have at least 1"),
        ({"settings": {"train.epoch": 3}}, "settings.train.epoch: 3; unknown key"),
        ({"settings": {"trian.epochs": 3}}, "settings: params.yaml has no such section: trian"),
        ({"settings": {1: 3}}, "settings: params.yaml has no such section: 1"),
        ({"settings": {"train.epochs": 0}}, "settings.train.epochs: 0; input should be"),
        ({"ranges": {"train.momentun": [0.1]}}, "ranges.train.momentun: 0.1; unknown key"),
        ({"ranges": {"train.seed": [0, 1]}}, "ranges.train.seed: should not be searched"),
        ({"ranges": {"data.split.seed": [0, 1]}}, "ranges.data.split.seed: should not be searched"),
        (
            {"ranges": {"train.momentum": {"low": 0.1}}},
            "ranges.train.momentum: None; input should be a valid number",
        ),
        (
            {"ranges": {"train.momentum": [0.5, "high"]}},
            "ranges.train.momentum: 'high'; input should be a valid number",
        ),
        ({"ranges": {"train.momentum": []}}, "ranges.train.momentum: The `choices` must contain"),
        ({"ranges": {"train.momentum": 0.5}}, "ranges.train.momentum: 0.5; should be a list of"),
        (
            {"ranges": {"train.momentum": {"low": 0.5, "high": 1.5}}},
            "ranges.train.momentum: 1.5; input should be less than 1",
        ),
        (
            {"ranges": {"train.momentum": {"low": 0.9, "high": 0.5}}},
            "ranges.train.momentum: `low <= high` must hold",
        ),
        (
            {"ranges": {"train.momentum": {"low": 0, "high": 0.5, "log": True}}},
            "ranges.train.momentum: `low > 0` must hold for `log=True`",
        ),
        (
            {"ranges": {"train.momentum": {"low": 0.1, "high": 0.2, "lag": True}}},
            "unexpected keyword argument 'lag'",
        ),
        (
            {"ranges": {"train.optimizer": {"low": "adamw", "high": "sgd"}}},
            "'low': 'adamw'}; should be a list of choices",
        ),
        (
            {"ranges": {"train.batch_size": {"low": 32, "high": 64.5}}},
            "ranges.train.batch_size: 64.5; input should be a valid integer",
        ),
        (
            {"ranges": {"train.unaugmented_epochs": [0, 3]}},
            "ranges.train.unaugmented_epochs: 3; should be at most 2, which is train.epochs",
        ),
        (
            {"ranges": {"model.dropout": [0.0, 0.2], "train.threads": [1, 2]}},
            "ranges.train.threads: 2; should be at most 1, since model.dropout",
        ),
    ],
)
def test_a_problem_is_named_in_one_line(
    change: dict[str, Any], problem: str, params: Params, tmp_path: Path
) -> None:
    (line,) = problems(PLAN | change, params, tmp_path)
    assert problem in line


def test_every_problem_has_a_line(params: Params, tmp_path: Path) -> None:
    ranges = {"train.momentum": [0.5, 1.5], "train.warmup": [0.1, 2]}
    assert [
        line.split(";")[0] for line in problems(PLAN | {"ranges": ranges}, params, tmp_path)
    ] == [
        "ranges.train.momentum: 1.5",
        "ranges.train.warmup: 2",
    ]


def test_trials_of_different_lengths_are_not_compared_by_epoch(
    params: Params, tmp_path: Path
) -> None:
    plan = PLAN | {"settings": {}, "ranges": {"train.epochs": {"low": 2, "high": 4}}}
    (problem,) = problems(plan, params, tmp_path)
    assert problem.startswith("ranges.train.epochs: should not be searched with pruning")
    never = {"kind": "none", "warmup_trials": 1, "warmup_epochs": 1}
    assert read(plan | {"pruning": never}, params, tmp_path)


def test_a_missing_or_empty_file_is_reported(params: Params, tmp_path: Path) -> None:
    with pytest.raises(MnistCnnError, match=r"there is no .*sweep.yaml here"):
        read_sweep(params, tmp_path / "sweep.yaml")
    (tmp_path / "sweep.yaml").write_text("")
    with pytest.raises(MnistCnnError, match=r"trials: field required"):
        read_sweep(params, tmp_path / "sweep.yaml")
