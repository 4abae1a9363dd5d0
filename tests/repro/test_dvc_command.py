"""What the project's `dvc` does for DVC, in a small project and by the real program."""

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project, start, wait_for_an_epoch

from mnist_cnn_train.repro.dvc_command import remove_half_written

pytestmark = pytest.mark.slow

MADE = ("data/raw", "metrics", "models")


@pytest.fixture
def project(pristine: Project, tmp_path: Path) -> Iterator[Project]:
    copy = Project(tmp_path / "project")
    shutil.copytree(pristine.folder, copy.folder, symlinks=True)
    yield copy
    shutil.rmtree(copy.folder)


def run_a_stage(project: Project, *before: str, folder: str = "") -> dict[str, str]:
    """Have `dvc repro`, with what is put `before` it, run the quickest stage; what is made then."""
    project.set(**{"data.sources": ["npm"]})
    told = project.run(*before, str(Path(folder) / "dvc"), "repro").stdout
    assert "Running stage 'download'" in told
    return project.hashes(*MADE)


@pytest.mark.fault
@pytest.mark.parametrize("part", [0, 20])
def test_a_half_written_list_of_processes_is_removed(part: int, project: Project) -> None:
    """Where DVC was killed while it wrote it."""
    whole = json.dumps({"write": {"a": {"pid": 1, "cmd": "dvc repro"}}, "read": {}})
    (project.folder / ".dvc/tmp/rwlock").write_text(whole[:part])
    before = project.hashes(*MADE)
    assert run_a_stage(project) == before


def test_a_list_that_a_living_process_writes_is_left_alone(project: Project) -> None:
    written = project.folder / ".dvc/tmp/rwlock"
    written.write_text('{"write": {"a"')
    with (project.folder / ".dvc/tmp/rwlock.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_half_written(project.folder)
        assert written.exists()
    remove_half_written(project.folder)
    assert not written.exists()


@pytest.mark.fault
@pytest.mark.parametrize("part", [0.0, 0.35, 0.95])
def test_a_half_written_lock_is_made_anew_from_the_cache(part: float, project: Project) -> None:
    lock = project.folder / "dvc.lock"
    whole, before = lock.read_bytes(), project.hashes(*MADE)
    lock.write_bytes(whole[: int(part * len(whole))])
    assert project.repro() == []
    assert project.hashes(*MADE) == before
    assert lock.read_bytes() == whole


def test_a_lock_in_the_midst_of_a_merge_is_left_to_its_author(project: Project) -> None:
    lock = project.folder / "dvc.lock"
    lock.write_text("<<<<<<< HEAD\n" + lock.read_text())
    refused = project.run("dvc", "repro", check=False)
    assert refused.returncode != 0
    assert lock.read_text().startswith("<<<<<<<")


@pytest.mark.fault
def test_an_experiment_that_is_ended_leaves_git_on_its_branch(project: Project) -> None:
    """DVC runs it on a detached HEAD."""
    before = project.hashes(*MADE)
    command = ("dvc", "exp", "run", "-S", "train.epochs=5000")
    with start(project, *command) as running:
        wait_for_an_epoch(project)
        os.killpg(running.pid, signal.SIGTERM)
        told = running.communicate()[0]
    assert running.returncode != 0
    assert "Traceback" not in told
    assert project.run("git", "branch", "--show-current").stdout == "main\n"
    assert project.hashes(*MADE) == before


def test_what_an_interrupted_training_kept_goes_once_there_are_results(project: Project) -> None:
    state = project.folder / ".checkpoints/train-0123"
    state.write_bytes(b"state")
    project.run("dvc", "status")
    assert state.exists()
    project.run("dvc", "repro")
    assert not state.exists()


SHELLS = ["/bin/false", "/usr/sbin/nologin", "/bin/csh", "/usr/bin/fish"]


@pytest.mark.fault
@pytest.mark.parametrize("shell", SHELLS)
def test_whatever_the_users_shell_is_the_pipeline_runs(shell: str, project: Project) -> None:
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not installed")
    before = project.hashes(*MADE)
    assert run_a_stage(project, "env", f"SHELL={shell}") == before


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash", "/bin/csh", "/usr/bin/fish"])
def test_a_stages_command_is_the_same_in_every_shell(shell: str, project: Project) -> None:
    """As where DVC is installed elsewhere, so that it is not the project's `dvc`."""
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not installed")
    before = project.hashes(*MADE)
    assert run_a_stage(project, "env", f"SHELL={shell}", "python", "-m") == before


@pytest.mark.fault
def test_without_the_environment_on_the_path_its_python_is_found(project: Project) -> None:
    before = project.hashes(*MADE)
    folder = str(Path(sys.executable).parent)
    assert run_a_stage(project, "env", "PATH=/usr/bin:/bin", folder=folder) == before
