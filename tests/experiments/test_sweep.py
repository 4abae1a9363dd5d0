import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from conftest import REPOSITORY, Project, copy_project
from optuna.pruners import MedianPruner
from optuna.trial import TrialState
from ruamel.yaml import YAML
from torch import nn

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.experiments.search_space import Sweep, read_sweep
from mnist_cnn_train.experiments.sweep import (
    DATABASE,
    FINISHED,
    SWEEPS,
    open_study,
    run_trial,
)
from mnist_cnn_train.pipeline.params import Params, changed, load_params
from mnist_cnn_train.training.loop import DivergedError, EpochLog, Trained

SMALL: dict[str, Any] = {
    "trials": 5,
    "objective": "validation_loss",
    "seed": 0,
    "random_trials": 2,
    "pruning": {"kind": "median", "warmup_trials": 2, "warmup_epochs": 1},
    "patience": 3,
    "settings": {"train.epochs": 2},
    "ranges": {
        "train.learning_rate": {"low": 0.01, "high": 0.3, "log": True},
        "train.batch_size": [50, 100],
    },
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    YAML(typ="safe").dump({**SMALL, **changes}, path)
    return path


@pytest.fixture(scope="module")
def project(
    small_digits: tuple[Dataset, Dataset], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A small project with the images, but no model, in which nothing was searched."""
    project = copy_project(tmp_path_factory.mktemp("sweep"), small_digits[0])
    write(project.folder)
    project.run("dvc", "repro", "download")
    project.commit("A small sweep")
    return project


def study(project: Project, name: str) -> optuna.Study:
    database = f"sqlite:///{project.folder}/.checkpoints/sweeps.db"
    return optuna.load_study(study_name=name, storage=database)


def sweep(project: Project, *options: str, check: bool = True) -> str:
    command = (sys.executable, "-m", "mnist_cnn_train", "sweep", *options)
    return project.run(*command, check=check).stdout


def started(project: Project, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mnist_cnn_train", "sweep", "--name", name]
    return subprocess.Popen(
        command, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_an_epoch(project: Project, name: str) -> optuna.trial.FrozenTrial:
    """The first running trial with an epoch."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):  # the database is being made
            for trial in study(project, name).get_trials(states=(TrialState.RUNNING,)):
                if trial.intermediate_values:
                    return trial
        time.sleep(0.02)
    raise AssertionError("no trial trains")


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_the_trial_of_a_killed_worker_is_run_again_with_the_same_settings(project: Project) -> None:
    write(project.folder, patience=1, trials=3, settings={"train.epochs": 6})
    killed = started(project, "killed")
    lost = wait_for_an_epoch(project, "killed")
    for child in children(killed.pid):
        os.kill(child, signal.SIGKILL)
    report = killed.communicate()[0]
    assert report.splitlines()[-1].endswith("of 3 trials finished; run the command again to resume")
    time.sleep(2)  # longer than patience
    output = sweep(project, "--name", "killed", "--jobs", "2")
    trials = study(project, "killed").get_trials()
    assert trials[lost.number].state == TrialState.FAIL, output
    again = [one for one in trials if one.system_attrs.get("failed_trial") == lost.number]
    assert [one.params for one in again if one.state in FINISHED] == [lost.params]
    assert 3 <= len([one for one in trials if one.state in FINISHED]) <= 4
    settings = [tuple(one.params.values()) for one in trials if one not in again]
    assert len(set(settings)) == len(settings)  # workers draw different ones


@pytest.mark.slow
def test_a_sweep_resumes_and_its_winner_becomes_an_experiment(project: Project) -> None:
    write(project.folder, trials=2)
    assert "Trial 0 finished with value" in sweep(project)
    write(project.folder, trials=4)
    resumed = sweep(project)
    assert "Trial 0 " not in resumed
    assert "Trial 3 " in resumed
    assert "Trial" not in sweep(project, "--best")  # nothing is left to search
    best = study(project, "sweep").best_trial.params
    project.run("dvc", "exp", "apply", "sweep-best")
    settings = load_params(project.folder / "params.yaml").train
    assert settings.learning_rate == best["train.learning_rate"]
    assert settings.batch_size == best["train.batch_size"]
    assert settings.epochs == 3  # the params' own, not the sweep's
    assert project.repro() == []


@pytest.mark.parametrize("exists", [False, True])
def test_without_a_study_best_is_one_line_and_makes_none(
    exists: bool, small: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    if exists:
        open_study(small, DATABASE, "sweep")
    with pytest.raises(MnistCnnError, match="there is no study 'other' yet"):
        open_study(small, DATABASE, "other", create=False)
    assert SWEEPS.is_file() == exists
    assert not exists or optuna.get_all_study_names(DATABASE) == ["sweep"]


def test_a_study_of_another_search_is_refused_but_may_have_more_trials(
    params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    open_study(read_sweep(params, write(tmp_path)), DATABASE, "sweep")
    open_study(read_sweep(params, write(tmp_path, trials=9, patience=9)), DATABASE, "sweep")
    other = Params.model_validate(changed(params.model_dump(), {"train.momentum": 0.5}))
    for sweep in (read_sweep(params, write(tmp_path, seed=1)), read_sweep(other, write(tmp_path))):
        with pytest.raises(MnistCnnError, match="has other ranges, params or code"):
            open_study(sweep, DATABASE, "sweep")
    (tmp_path / "src/mnist_cnn_train/training").mkdir(parents=True)
    (tmp_path / "src/mnist_cnn_train/training/new.py").write_text("")
    with pytest.raises(MnistCnnError, match="or code"):
        open_study(read_sweep(params, write(tmp_path)), DATABASE, "sweep")


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/sweeps.db", "missing://x"])
def test_a_database_that_cannot_be_used_is_one_line(
    url: str, small: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MnistCnnError, match=r"^the database cannot be used: [^\n]+$"):
        open_study(small, url, "sweep")


@pytest.fixture
def small(params: Params, tmp_path: Path) -> Sweep:
    return read_sweep(params, write(tmp_path))


def logged(losses: Sequence[float], diverges: bool = False) -> Any:
    """A stand-in for training, whose epochs have these validation losses."""

    def train(*_: object, after_epoch: Callable[[EpochLog], None]) -> Trained:
        log = [EpochLog(epoch, 0.5, loss, 0.9) for epoch, loss in enumerate(losses, start=1)]
        for entry in log:
            after_epoch(entry)
        if diverges:
            raise DivergedError("the loss became nan")
        return Trained(nn.Identity(), log)

    return train


def run(
    sweep: Sweep, digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch, *trains: Any
) -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(pruner=MedianPruner(n_startup_trials=1, n_warmup_steps=1))
    for train in trains:
        monkeypatch.setattr("mnist_cnn_train.experiments.sweep.train", train)
        study.optimize(partial(run_trial, sweep=sweep, digits=digits), n_trials=1)
    return study.trials


def test_a_trial_is_worth_the_objective_of_its_last_epoch(
    small: Sweep, small_digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = run(small, small_digits, monkeypatch, logged([0.2, 0.1]))
    assert (trial.value, trial.intermediate_values) == (0.1, {1: 0.2, 2: 0.1})
    assert trial.user_attrs == {"validation_accuracy": 0.9}
    assert trial.params.keys() == small.plan.ranges.keys()


def test_bad_and_diverged_trials_are_pruned_and_the_sweep_goes_on(
    small: Sweep, small_digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    trains = logged([0.2, 0.1]), logged([0.9, 0.8]), logged([0.1], True), logged([0.1, 0.1])
    trials = run(small, small_digits, monkeypatch, *trains)
    kept, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [trial.state for trial in trials] == [kept, pruned, pruned, kept]
    assert list(trials[1].intermediate_values) == [1]


def test_what_training_refuses_is_one_line_and_the_trial_is_not_lost(
    small: Sweep, small_digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> Trained:
        raise MnistCnnError("there is no cuda here")

    study = optuna.create_study()
    monkeypatch.setattr("mnist_cnn_train.experiments.sweep.train", absent)
    with pytest.raises(SystemExit, match=r"^mnist_cnn_train: there is no cuda here$"):
        study.optimize(partial(run_trial, sweep=small, digits=small_digits))
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]


def test_a_worker_ends_with_its_command_and_its_trial_is_not_lost(
    small: Sweep, small_digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = SimpleNamespace(is_alive=lambda: False)
    monkeypatch.setattr("mnist_cnn_train.experiments.sweep.parent_process", lambda: command)
    monkeypatch.setattr("mnist_cnn_train.experiments.sweep.train", logged([0.1]))
    study = optuna.create_study()
    with pytest.raises(SystemExit):
        study.optimize(partial(run_trial, sweep=small, digits=small_digits))
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
