import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.experiments.search_space import Range, Sweep, read_sweep
from mnist_cnn_train.pipeline.params import Params, changed

PLAN = {
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
    path.write_text(json.dumps(plan))  # which YAML includes
    return read_sweep(params, path)


def problems(plan: Any, params: Params, folder: Path) -> list[str]:
    with pytest.raises(MnistCnnError) as refusal:
        read(plan, params, folder)
    first, *lines = str(refusal.value).splitlines()
    assert first == f"{folder / 'sweep.yaml'} cannot be used:"
    return [line.strip() for line in lines]


def test_the_projects_own_sweep_can_be_used(params: Params) -> None:
    sweep = read_sweep(params, REPOSITORY / "sweep.yaml")
    assert sweep.spaces.keys() == sweep.plan.ranges.keys()


def test_a_trial_has_the_settings_and_its_own_changes(params: Params, tmp_path: Path) -> None:
    sweep = read(PLAN, params, tmp_path)
    assert sweep.spaces == {"train.momentum": Range(low=0.5, high=0.9)}
    trial = sweep.params({"train.momentum": 0.7})
    assert (trial.train.epochs, trial.train.momentum) == (2, 0.7)
    assert trial.model == params.model


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trials": 0}, "trials: 0; input should be greater than or equal to 1"),
        ({"trails": 3}, "trails: 3; unknown key, do you mean trials?"),
        (
            {"pruning": {"kind": "hyper", "warmup_trials": 1, "warmup_epochs": 1}},
            "pruning.kind: 'hyper'; input should be 'median' or 'none'",
        ),
        ({"ranges": [1]}, "ranges: [1]; input should be a valid dictionary"),
        (
            {"ranges": {}},
            "ranges: {}; should be one or more dotted keys of params.yaml with ranges",
        ),
        (
            {"settings": {"train.epoch": 3}},
            "settings.train.epoch: 3; unknown key of params.yaml, do you mean train.epochs?",
        ),
        (
            {"settings": {"train.momentum": 0.8}},
            "settings.train.momentum: 0.8; is among the ranges too",
        ),
        (
            {"settings": {"train.epochs": 0}},
            "settings.train.epochs: 0; input should be greater than or equal to 1",
        ),
        (
            {"settings": {"evaluate.min_accuracy": 0.5}},
            "settings.evaluate.min_accuracy: 0.5; changes nothing in a trial",
        ),
        (
            {"settings": {"train.train_on_validation": True}},
            "train.train_on_validation: True; should be false in a sweep, since it leaves no "
            "images to evaluate a trial by",
        ),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(
    change: dict[str, Any], problem: str, params: Params, tmp_path: Path
) -> None:
    assert problems(PLAN | change, params, tmp_path) == [problem]


@pytest.mark.parametrize(
    ("ranges", "problem"),
    [
        (
            {"train.momentun": [0.1, 0.2]},
            "train.momentun: unknown key of params.yaml, do you mean train.momentum?",
        ),
        (
            {"train.seed": [0, 1]},
            "train.seed: should not be searched: the best of several seeds is luck",
        ),
        (
            {"data.split.seed": [0, 1]},
            "data.split.seed: should not be searched: only settings of model and train change "
            "the training",
        ),
        ({"train.momentum": {"low": 0.1}}, "train.momentum.high: field required"),
        (
            {"train.momentum": {"low": 0.1, "high": 0.2, "lag": True}},
            "train.momentum.lag: True; unknown key, do you mean log?",
        ),
        (
            {"train.momentum": {"low": 0.9, "high": 0.5}},
            "train.momentum.high: 0.5; should be above low, which is 0.9",
        ),
        (
            {"train.momentum": {"low": 0, "high": 0.5, "log": True}},
            "train.momentum.low: 0; should be above 0 on a logarithmic scale",
        ),
        (
            {"train.momentum": {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}},
            "train.momentum.step: 0.1; should not be there on a logarithmic scale",
        ),
        (
            {"train.momentum": {"low": 0.1, "high": 0.5, "step": 0.3}},
            "train.momentum.step: 0.3; should divide the way from low to high",
        ),
        (
            {"train.momentum": {"low": 0.5, "high": 1.5}},
            "train.momentum: 1.5; input should be less than 1",
        ),
        (
            {"train.momentum": [0.5, "high"]},
            "train.momentum: 'high'; input should be a valid number",
        ),
        (
            {"train.momentum": [0.5, 0.5]},
            "train.momentum: [0.5, 0.5]; should be two or more different choices",
        ),
        (
            {"train.momentum": 0.5},
            "train.momentum: 0.5; should be a list of choices or low and high",
        ),
        (
            {"train.optimizer": {"low": 0, "high": 1}},
            "train.optimizer: {'low': 0, 'high': 1}; should be a list of choices",
        ),
        (
            {"model.tta_views": {"low": 1, "high": 9}},
            "model.tta_views: {'low': 1, 'high': 9}; should be a list of choices",
        ),
        (
            {"train.batch_size": {"low": 32, "high": 64.5}},
            "train.batch_size.high: 64.5; should be a whole number",
        ),
        (
            {"train.unaugmented_epochs": [0, 3]},
            "train.unaugmented_epochs: 3; should be at most 2, which is train.epochs",
        ),
        (
            {"model.dropout": [0.0, 0.2], "train.threads": [1, 2]},
            "model.dropout at 0.2 and train.threads at 2: train.threads: 2; should be at "
            "most 1, since model.dropout cannot be repeated on several threads",
        ),
    ],
)
def test_a_range_that_cannot_be_searched_is_named_in_one_line(
    ranges: dict[str, Any], problem: str, params: Params, tmp_path: Path
) -> None:
    assert problems(PLAN | {"ranges": ranges}, params, tmp_path) == [f"ranges.{problem}"]


@pytest.mark.parametrize(
    ("space", "kept"),
    [
        ({"low": 0.1, "high": 0.4, "step": 0.1}, True),
        ({"low": 0.0, "high": 0.5, "step": 0.05}, True),
        ({"low": 0.0, "high": 0.5, "step": 0.6}, False),
    ],
)
def test_steps_are_compared_as_their_decimals_are(
    space: dict[str, float], kept: bool, params: Params, tmp_path: Path
) -> None:
    plan = PLAN | {"ranges": {"train.momentum": space}}
    if kept:
        assert read(plan, params, tmp_path)
    else:
        assert len(problems(plan, params, tmp_path)) == 1


def test_trials_of_different_lengths_are_not_compared_epoch_by_epoch(
    params: Params, tmp_path: Path
) -> None:
    plan = PLAN | {"settings": {}, "ranges": {"train.epochs": {"low": 2, "high": 4}}}
    assert problems(plan, params, tmp_path) == [
        "ranges.train.epochs: should not be searched with pruning, which compares trials epoch "
        "by epoch"
    ]
    never = {"kind": "none", "warmup_trials": 1, "warmup_epochs": 1}
    assert read(plan | {"pruning": never}, params, tmp_path)


def test_a_final_fit_in_params_is_refused(params: Params, tmp_path: Path) -> None:
    final = Params.model_validate(changed(params.model_dump(), {"train.train_on_validation": True}))
    (problem,) = problems(PLAN, final, tmp_path)
    assert problem.startswith("train.train_on_validation: True; should be false in a sweep")


def test_a_missing_or_empty_file_is_one_line(params: Params, tmp_path: Path) -> None:
    with pytest.raises(MnistCnnError, match=r"there is no .*sweep.yaml here"):
        read_sweep(params, tmp_path / "sweep.yaml")
    (tmp_path / "sweep.yaml").write_text("")
    with pytest.raises(MnistCnnError, match="should hold trials, objective"):
        read_sweep(params, tmp_path / "sweep.yaml")
