"""The workflow, its report and the development container, as far as they can be tried offline."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project, shell

PATH = REPOSITORY / ".github/workflows/test.yml"
WORKFLOW: dict[str, Any] = Project(REPOSITORY).read(".github/workflows/test.yml")
JOBS: dict[str, Any] = WORKFLOW["jobs"]


def scripts(*jobs: str) -> list[str]:
    return [step["run"] for job in jobs for step in JOBS[job]["steps"] if "run" in step]


def targets(script: str) -> set[str]:
    return set(re.findall(r"^\s*make (\S+)", script, re.MULTILINE))


MAKEFILE = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.slow
def test_the_workflow_follows_githubs_schema() -> None:
    command = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", PATH)
    result = shell(*command, check=False)
    assert result.returncode == 0, result.stdout


def test_the_test_job_runs_the_readmes_command_on_the_oldest_python_and_a_newer_one() -> None:
    assert scripts("test")[-1] == "make test"
    assert JOBS["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_every_script_is_valid_calls_what_exists_and_has_nothing_filled_in() -> None:
    assert targets("\n".join(scripts(*JOBS))) == {"setup", "repro", "report", "test"} <= MAKEFILE
    for script in scripts(*JOBS):
        shell("bash", "-n", input=script)
        assert "${{" not in script  # a branch's name could be a command
        for file in re.findall(r"(?<!\S)\.(?:ci|github)/\S+", script):
            assert (REPOSITORY / file).stat().st_mode & 0o100


def test_every_action_is_pinned_by_its_commit() -> None:
    used = re.findall(r"uses: (.*)", PATH.read_text())
    steps = [step for job in JOBS.values() for step in job["steps"] if "uses" in step]
    assert len(used) == len(steps) > 0
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_only_the_job_that_runs_none_of_our_code_may_write() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert {job for job in JOBS if "permissions" in JOBS[job]} == {"comment"}
    assert JOBS["comment"]["permissions"] == {"pull-requests": "write"}
    assert [step for step in JOBS["comment"]["steps"] if "uses" in step] == []
    assert "head.repo.full_name == github.repository" in JOBS["comment"]["if"]  # not from forks


def test_every_job_ends_and_a_newer_push_replaces_the_run() -> None:
    assert all(job["timeout-minutes"] <= 90 for job in JOBS.values())
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True


def test_the_container_is_of_the_oldest_python_and_runs_commands_that_exist() -> None:
    container = Project(REPOSITORY).read(".devcontainer/devcontainer.json")
    assert re.search(r"python:3\.11\b", container["image"])
    assert targets(container["postCreateCommand"]) == {"setup"} <= MAKEFILE
    assert (REPOSITORY / container["onCreateCommand"].removeprefix("sudo ")).is_file()
    assert "iterative.dvc" in container["customizations"]["vscode"]["extensions"]


def report(project: Project, base: str, *settings: str) -> str:
    project.run("env", *settings, ".github/report.sh", base)
    return (project.folder / "dvc_plots/report.md").read_text()


def test_the_report_has_what_a_setting_changed(reproduced: Project) -> None:
    before = reproduced.run("git", "rev-parse", "HEAD").stdout.strip()
    address = "FIGURES_URL=https://forge/digits/raw"
    reproduced.set(**{"evaluate.calibration_bins": 5})
    assert reproduced.repro() == ["evaluate", "export"]
    page = report(reproduced, "main", address)
    assert re.search(r"^\| params\.yaml +\| evaluate\.calibration_bins +\| 15 .*\| 5 ", page, re.M)
    assert re.search(r"^\| metrics/accuracy\.json +\| calibration_error +\| 0\.\d+ ", page, re.M)
    assert "not the committed results" in page
    assert "<img" not in page

    try:
        reproduced.commit("Fewer bins")
        page = report(reproduced, "HEAD^1", address)
    finally:
        reproduced.run("git", "reset", "--quiet", "--hard", before)
    assert "not the committed results" not in page
    (row,) = (line for line in page.splitlines() if line.startswith("| reliability |"))
    addresses = re.findall(r'src="https://forge/digits/raw/(\w+)/metrics/plots/(\w+).png"', row)
    assert [name for _, name in addresses] == ["reliability", "reliability"]
    assert before.startswith(addresses[0][0])
    assert "| misclassified |" not in page  # as it was
    plots = (reproduced.folder / "dvc_plots/index.html").read_text()
    assert "Confusion matrix" in plots


def test_the_report_says_so_where_nothing_changed(reproduced: Project) -> None:
    page = report(reproduced, "main")
    for kind in ("setting", "metric", "figure"):
        assert f"No {kind} changed." in page


def test_a_base_that_does_not_exist_is_named(reproduced: Project) -> None:
    told = reproduced.refused(".github/report.sh", "nowhere")
    assert told == "report: there is no revision nowhere; name one: make report BASE=main\n"


def test_results_of_another_lock_come_from_the_run_cache(
    reproduced: Project, tmp_path: Path
) -> None:
    """As in a workflow without a remote, whose processor rounds otherwise than the author's."""
    (script,) = (script for script in scripts("pipeline") if "rm dvc.lock" in script)
    clone = reproduced.clone(tmp_path / "clone")
    (clone.folder / ".dvc/cache").symlink_to(reproduced.folder / ".dvc/cache")
    outputs = clone.read("dvc.lock")["stages"]["train"]["outs"]
    (model,) = (one["md5"] for one in outputs if one["path"] == "models/model.safetensors")
    clone.edit("dvc.lock", model, "0123456789abcdef" * 2)
    clone.run("bash", "-e", "-c", script.replace("source .venv/bin/activate\n", ""))
    assert clone.repro() == []
    assert clone.hashes() == reproduced.hashes()
