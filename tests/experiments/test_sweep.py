import contextlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import psutil
import pytest
from conftest import REPOSITORY, Project, start
from optuna.pruners import MedianPruner
from optuna.trial import TrialState
from ruamel.yaml import YAML
from test_search_space import PLAN, PRUNING
from torch import nn

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.experiments.search_space import Sweep, read_sweep
from mnist_cnn_train.experiments.sweep import DATABASE, FINISHED, SWEEPS, open_study, run_trial
from mnist_cnn_train.pipeline.params import Params, changed, load_params
from mnist_cnn_train.training.loop import DivergedError, EpochLog, Trained

SWEEP = ("python", "-m", "mnist_cnn_train", "sweep")
Train = Callable[..., Trained]
Run = Callable[..., optuna.Study]

SMALL = PLAN | {
    "pruning": PRUNING | {"warmup_trials": 2},
    "patience": 3,
    "ranges": {
        "train.learning_rate": {"low": 0.01, "high": 0.3, "log": True},
        "train.batch_size": [50, 100],
    },
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "sweep.yaml"
    YAML(typ="safe").dump(SMALL | changes, path)
    return path


def study(project: Project, name: str) -> optuna.Study:
    database = f"sqlite:///{project.folder}/.checkpoints/sweeps.db"
    return optuna.load_study(study_name=name, storage=database)


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


def test_the_trial_of_a_killed_worker_is_run_again_with_the_same_settings(project: Project) -> None:
    write(project.folder, patience=1, trials=3, settings={"train.epochs": 6})
    killed = start(project, *SWEEP, "--name", "killed")
    lost = wait_for_an_epoch(project, "killed")
    for worker in psutil.Process(killed.pid).children():
        worker.kill()
    report = killed.communicate()[0]
    assert report.splitlines()[-1].endswith("of 3 trials finished; run the command again to resume")
    time.sleep(2)  # longer than patience
    output = project.run(*SWEEP, "--name", "killed", "--jobs", "2").stdout
    trials = study(project, "killed").get_trials()
    assert trials[lost.number].state == TrialState.FAIL, output
    again = [one for one in trials if one.system_attrs.get("failed_trial") == lost.number]
    assert [one.params for one in again if one.state in FINISHED] == [lost.params]
    assert 3 <= len([one for one in trials if one.state in FINISHED]) <= 4
    settings = [tuple(one.params.values()) for one in trials if one not in again]
    assert len(set(settings)) == len(settings)  # workers draw different ones


def test_a_sweep_resumes_and_its_winner_becomes_an_experiment(project: Project) -> None:
    write(project.folder, trials=2)
    assert "Trial 0 finished with value" in project.run(*SWEEP).stdout
    write(project.folder, trials=4)
    resumed = project.run(*SWEEP).stdout
    assert "Trial 0 " not in resumed
    assert "Trial 3 " in resumed
    assert "Trial" not in project.run(*SWEEP, "--best").stdout  # nothing is left to search
    best = study(project, "sweep").best_trial.params
    project.run("dvc", "exp", "apply", "sweep-best")
    settings = load_params(project.folder / "params.yaml").train
    assert settings.learning_rate == best["train.learning_rate"]
    assert settings.batch_size == best["train.batch_size"]
    assert settings.epochs == 3  # the params' own, not the sweep's
    assert project.repro() == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nothing was searched."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    return tmp_path


@pytest.fixture
def small(params: Params, folder: Path) -> Sweep:
    return read_sweep(params, write(folder))


@pytest.mark.parametrize("exists", [False, True])
def test_without_a_study_best_is_one_line_and_makes_none(exists: bool, small: Sweep) -> None:
    if exists:
        open_study(small, DATABASE, "sweep")
    with pytest.raises(MnistCnnError, match="there is no study 'other' yet"):
        open_study(small, DATABASE, "other", create=False)
    assert SWEEPS.is_file() == exists
    assert not exists or optuna.get_all_study_names(DATABASE) == ["sweep"]


def test_a_study_of_another_search_is_refused_but_may_have_more_trials(
    params: Params, small: Sweep, folder: Path
) -> None:
    open_study(small, DATABASE, "sweep")
    open_study(read_sweep(params, write(folder, trials=9, patience=9)), DATABASE, "sweep")
    other = Params.model_validate(changed(params.model_dump(), {"train.momentum": 0.5}))
    for sweep in (read_sweep(params, write(folder, seed=1)), read_sweep(other, write(folder))):
        with pytest.raises(MnistCnnError, match="has other ranges, params or code"):
            open_study(sweep, DATABASE, "sweep")
    module = folder / "src/mnist_cnn_train/training/new.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    with pytest.raises(MnistCnnError, match="or code"):
        open_study(small, DATABASE, "sweep")


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/sweeps.db", "missing://x"])
def test_a_database_that_cannot_be_used_is_one_line(url: str, small: Sweep) -> None:
    with pytest.raises(MnistCnnError, match=r"^the database cannot be used: [^\n]+$"):
        open_study(small, url, "sweep")


def logged(*losses: float, error: Exception | None = None) -> Train:
    """A stand-in for training, whose epochs have these validation losses."""

    def train(*_: object, after_epoch: Callable[[EpochLog], None]) -> Trained:
        log = [EpochLog(epoch, 0.5, loss, 0.9) for epoch, loss in enumerate(losses, start=1)]
        for entry in log:
            after_epoch(entry)
        if error:
            raise error
        return Trained(nn.Identity(), log)

    return train


@pytest.fixture
def run(
    small: Sweep, small_digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run a trial with each of several trainings."""
    study = optuna.create_study(pruner=MedianPruner(n_startup_trials=1, n_warmup_steps=1))

    def run(*trains: Train) -> optuna.Study:
        for train in trains:
            monkeypatch.setattr("mnist_cnn_train.experiments.sweep.train", train)
            study.optimize(partial(run_trial, sweep=small, digits=small_digits), n_trials=1)
        return study

    return run


def test_a_trial_is_worth_the_objective_of_its_last_epoch(run: Run, small: Sweep) -> None:
    (trial,) = run(logged(0.2, 0.1)).trials
    assert (trial.value, trial.intermediate_values) == (0.1, {1: 0.2, 2: 0.1})
    assert trial.user_attrs == {"validation_accuracy": 0.9}
    assert trial.params.keys() == small.plan.ranges.keys()


def test_bad_and_diverged_trials_are_pruned_and_the_sweep_goes_on(run: Run) -> None:
    diverges = logged(0.1, error=DivergedError("the loss became nan"))
    trials = run(logged(0.2, 0.1), logged(0.9, 0.8), diverges, logged(0.1, 0.1)).trials
    kept, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [trial.state for trial in trials] == [kept, pruned, pruned, kept]
    assert list(trials[1].intermediate_values) == [1]


@pytest.mark.parametrize(
    ("error", "alive", "told"),
    [
        (MnistCnnError("there is no cuda here"), True, "^mnist_cnn_train: there is no cuda here$"),
        (None, False, None),
    ],
    ids=["training is refused", "the command has ended"],
)
def test_a_worker_ends_and_its_trial_is_not_lost(
    error: Exception | None,
    alive: bool,
    told: str | None,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = SimpleNamespace(is_alive=lambda: alive)
    monkeypatch.setattr("mnist_cnn_train.experiments.sweep.parent_process", lambda: command)
    with pytest.raises(SystemExit, match=told):
        run(logged(0.1, error=error))
    assert [trial.state for trial in run().trials] == [TrialState.RUNNING]
