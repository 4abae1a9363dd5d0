import re

import pytest
from conftest import Project

VERIFY = ("python", "-P", "-m", "mnist_cnn_train.repro.verify")


def record(project: Project, output: str) -> None:
    """Have dvc.lock name another content of `output`."""
    with project.edited_lock() as lock:
        for stage in lock["stages"].values():
            for entry in (*stage["outs"], *stage["deps"]):
                if entry["path"] == output:
                    entry["md5"] = "0123456789abcdef" * 2


def test_verify_names_the_first_file_that_differs_and_the_machine(project: Project) -> None:
    """All others of the clone's run are the committed ones."""
    record(project, "metrics/onnx.json")
    project.commit("Made elsewhere")
    last = project.refused(*VERIFY).splitlines()[-1]
    assert last.startswith("verify: metrics/onnx.json is the first of 1 files that differ from the")
    assert " family " in last
    assert "torch 2." in last
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_results_that_differ_by_rounding_are_told_in_a_line(project: Project) -> None:
    record(project, "models/model.safetensors")
    *_, line = project.run(*VERIFY, "--here").stdout.splitlines()
    assert "differ from the committed ones by rounding" in line
    assert "0.0 times the standard deviation over seeds" in line


@pytest.mark.parametrize("settings", [{}, {"data.sources": ["npm"]}])
def test_results_that_are_committed_or_of_other_settings_are_only_summarized(
    settings: dict[str, object], project: Project
) -> None:
    project.set(**settings)
    project.run("dvc", "repro")
    accuracy, plots, following = project.run(*VERIFY, "--here").stdout.splitlines()
    found = project.read("metrics/accuracy.json")
    assert f"{100 * found['accuracy']:.2f} % on {found['images']} test images" in accuracy
    *names, folder = re.findall(r"[\w/.]+", plots.replace(" in ", " ").partition(":")[2])
    assert all((project.folder / folder / name).is_file() for name in names)
    assert (project.folder / re.findall(r"--model ([\w/.]+)", following)[0]).is_file()
