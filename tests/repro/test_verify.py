import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project
from ruamel.yaml import YAML

pytestmark = pytest.mark.slow


@pytest.fixture
def project(pristine: Project, tmp_path: Path) -> Iterator[Project]:
    copy = Project(tmp_path / "project")
    shutil.copytree(pristine.folder, copy.folder, symlinks=True)
    yield copy
    shutil.rmtree(copy.folder)


def record(project: Project, output: str) -> None:
    """Have dvc.lock name another content of `output`."""
    yaml, path = YAML(), project.folder / "dvc.lock"
    lock = yaml.load(path)
    for stage in lock["stages"].values():
        for entry in (*stage["outs"], *stage["deps"]):
            if entry["path"] == output:
                entry["md5"] = "0123456789abcdef" * 2
    yaml.dump(lock, path)


def compare(project: Project) -> str:
    return project.run(sys.executable, "-P", "-m", "mnist_cnn_train.repro.verify", "--here").stdout


def test_verify_names_the_first_file_that_differs_and_the_machine(project: Project) -> None:
    """All others of the clone's run are the committed ones."""
    record(project, "metrics/onnx.json")
    project.commit("Made elsewhere")
    result = project.run(sys.executable, "-P", "-m", "mnist_cnn_train.repro.verify", check=False)
    assert result.returncode == 1
    last = result.stdout.splitlines()[-1]
    assert last.startswith("verify: metrics/onnx.json is the first of 1 files that differ from the")
    assert " family " in last
    assert "torch 2." in last
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_results_that_differ_by_rounding_are_told_in_a_line(project: Project) -> None:
    record(project, "models/model.safetensors")
    (line,) = compare(project).splitlines()
    assert "differ from the committed ones by rounding" in line
    assert "0.0 times the standard deviation over seeds" in line


def test_results_that_are_committed_or_of_other_settings_are_not_remarked_on(
    project: Project,
) -> None:
    assert compare(project) == ""
    project.set(**{"data.sources": ["npm"]})
    project.run("dvc", "repro")
    assert compare(project) == ""
