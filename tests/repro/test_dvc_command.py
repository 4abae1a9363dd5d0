"""What the project's `dvc` does for DVC, in a small project and by the real program."""

import fcntl
import json
import sys
from pathlib import Path

import pytest
from conftest import Project

from mnist_cnn_train.repro.dvc_command import remove_half_written


def run_a_stage(project: Project, *command: str) -> None:
    """Have `dvc repro` run the quickest stage, which makes what was there before."""
    project.set(**{"data.sources": ["npm"]})
    with project.same_files():
        assert "Running stage 'download'" in project.run(*command, "repro").stdout


@pytest.mark.fault
@pytest.mark.parametrize("part", [0, 20])
def test_a_half_written_list_of_processes_is_removed(part: int, project: Project) -> None:
    """Where DVC was killed while it wrote it."""
    whole = json.dumps({"write": {"a": {"pid": 1, "cmd": "dvc repro"}}, "read": {}})
    (project.folder / ".dvc/tmp/rwlock").write_text(whole[:part])
    run_a_stage(project, "dvc")


def test_a_list_that_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    written = tmp_path / ".dvc/tmp/rwlock"
    written.parent.mkdir(parents=True)
    written.write_text('{"write": {"a"')
    with written.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_half_written(tmp_path)
        assert written.exists()
    remove_half_written(tmp_path)
    assert not written.exists()


@pytest.mark.fault
@pytest.mark.parametrize("part", [0.0, 0.35, 0.95])
def test_a_half_written_lock_is_made_anew_from_the_cache(part: float, project: Project) -> None:
    lock = project.folder / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[: int(part * len(whole))])
    with project.same_files():
        assert project.repro() == []
    assert lock.read_bytes() == whole


def test_a_lock_in_the_midst_of_a_merge_is_left_to_its_author(project: Project) -> None:
    lock = project.folder / "dvc.lock"
    lock.write_text("<<<<<<< HEAD\n" + lock.read_text())
    project.refused("dvc", "repro")
    assert lock.read_text().startswith("<<<<<<<")


def test_what_an_interrupted_training_kept_goes_once_there_are_results(project: Project) -> None:
    state = project.folder / ".checkpoints/train-0123"
    state.write_bytes(b"state")
    project.run("dvc", "status")
    assert state.exists()
    project.run("dvc", "repro")
    assert not state.exists()


@pytest.mark.fault
@pytest.mark.parametrize(
    "command",
    [
        *(
            [f"SHELL={shell}", "dvc"]
            for shell in ("/bin/false", "/usr/sbin/nologin", "/bin/csh", "/usr/bin/fish")
        ),
        *(  # as where DVC is installed elsewhere, so that it is not the project's `dvc`
            [f"SHELL={shell}", "python", "-m", "dvc"]
            for shell in ("/bin/sh", "/bin/bash", "/bin/csh", "/usr/bin/fish")
        ),
        ["PATH=/usr/bin:/bin", str(Path(sys.executable).with_name("dvc"))],
    ],
    ids=" ".join,
)
def test_a_stage_runs_alike_by_every_shell_and_path(command: list[str], project: Project) -> None:
    name, _, value = command[0].partition("=")
    if name == "SHELL" and not Path(value).exists():
        pytest.skip(f"{value} is not installed")
    run_a_stage(project, "env", *command)
