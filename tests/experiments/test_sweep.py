import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Project, copy_project
from ruamel.yaml import YAML

from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.experiments.sweep import chains, finished
from mnist_cnn_train.pipeline.params import load_params

TRIALS = 5
SMALL: dict[str, Any] = {
    "trials": TRIALS,
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


@pytest.fixture
def workers(project: Project) -> Iterator[list[subprocess.Popen[str]]]:
    """Two commands on one study, as from two shells."""
    command = [sys.executable, "-m", "mnist_cnn_train", "sweep", "--name", "shared"]
    running = [
        subprocess.Popen(
            command,
            cwd=project.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    yield running
    for one in running:
        one.kill()
        one.wait()


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_workers_trial_is_done_again_and_none_is_counted_twice(
    project: Project, workers: list[subprocess.Popen[str]]
) -> None:
    database = project.folder / ".checkpoints/sweeps.db"

    def in_training() -> bool:
        """Whether each worker is at a trial, and one has done an epoch of it."""
        try:
            with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
                states = connection.execute("select state from trials").fetchall()
                epochs = connection.execute("select count(*) from trial_heartbeats").fetchone()
        except sqlite3.OperationalError:
            return False
        return len([state for state in states if state == ("RUNNING",)]) == 2 and epochs[0] >= 2

    deadline = time.monotonic() + 90
    while not in_training():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed, other = workers
    for child in children(killed.pid):
        os.kill(child, signal.SIGKILL)
    os.kill(killed.pid, signal.SIGKILL)
    told = other.communicate(timeout=120)[0]
    assert other.returncode == 0, told

    trials = study(project, "shared").get_trials()
    done = finished(trials, TRIALS)
    assert len(done) == TRIALS
    chained = chains(trials, TRIALS)
    assert len(chained) == TRIALS
    # One finished attempt for each trial of the search, and the dead one among those that failed.
    for chain in chained.values():
        assert len([trial for trial in chain if trial in done]) == 1
        tried = [trial.params for trial in chain if trial.params]  # none if it died before that
        assert all(one == tried[0] for one in tried)
    assert [trial for chain in chained.values() for trial in chain if len(chain) > 1]


@pytest.mark.slow
def test_a_sweep_goes_on_is_judged_by_its_ranges_and_gives_a_winner(project: Project) -> None:
    few = {**SMALL, "trials": 2}
    write(project.folder, **few)
    first = project.run(sys.executable, "-m", "mnist_cnn_train", "sweep").stdout
    assert "trial 0: validation loss" in first
    assert "2 trials" in first
    write(project.folder, trials=4)
    then = project.run(sys.executable, "-m", "mnist_cnn_train", "sweep").stdout
    assert "trial 0:" not in then
    assert "trial 3:" in then
    assert len(study(project, "sweep").get_trials()) == 4
    assert (
        "4 trials" in project.run(sys.executable, "-m", "mnist_cnn_train", "sweep").stdout
    )  # nothing is left to do

    none = project.run(
        sys.executable, "-m", "mnist_cnn_train", "sweep", "--best", "--name", "other", check=False
    )
    assert none.returncode == 1
    assert "there is no study 'other' yet" in none.stdout

    write(project.folder, seed=1)
    refused = project.run(sys.executable, "-m", "mnist_cnn_train", "sweep", check=False)
    assert refused.returncode == 1
    assert "was made with other ranges or settings; give this one another --name" in refused.stdout
    assert "Traceback" not in refused.stdout
    write(project.folder, trials=4)

    project.run(sys.executable, "-m", "mnist_cnn_train", "sweep", "--best")
    best = study(project, "sweep").best_trial.params
    project.run("dvc", "exp", "apply", "sweep-best")
    settings = load_params(project.folder / "params.yaml").train
    assert settings.learning_rate == best["train.learning_rate"]
    assert settings.batch_size == best["train.batch_size"]
    assert settings.epochs == 3  # the params' own, not the sweep's
    assert project.repro() == []
