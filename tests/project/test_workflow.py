"""The workflow, its report and the development container, as far as they can be tried offline."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Project
from ruamel.yaml import YAML

WORKFLOW = REPOSITORY / ".github/workflows/test.yml"
JOBS: dict[str, Any] = YAML(typ="safe").load(WORKFLOW)["jobs"]
CONTAINER = json.loads((REPOSITORY / ".devcontainer/devcontainer.json").read_text())


def steps(*jobs: str) -> list[dict[str, Any]]:
    return [step for job in jobs or JOBS for step in JOBS[job]["steps"]]


def scripts(*jobs: str) -> list[str]:
    return [step["run"] for step in steps(*jobs) if "run" in step]


def targets(script: str) -> set[str]:
    return set(re.findall(r"^\s*make (\S+)", script, re.MULTILINE))


MAKEFILE = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.slow
def test_the_workflow_follows_githubs_schema() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_test_job_runs_the_readmes_command_on_the_oldest_python_and_a_newer_one() -> None:
    *_, last = scripts("test")
    assert last == "make test"
    assert JOBS["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_every_script_is_valid_and_calls_what_exists() -> None:
    assert targets("\n".join(scripts())) == {"setup", "repro", "report", "test"}
    for script in scripts():
        # GitHub fills ${{ … }} in before the shell sees it.
        text = re.sub(r"\$\{\{.*?\}\}", "x", script)
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert targets(script) <= MAKEFILE
        for file in re.findall(r"(?<!\S)\.(?:ci|github)/\S+", script):
            assert (REPOSITORY / file).stat().st_mode & 0o100


def test_no_script_has_what_a_pull_request_says_filled_in() -> None:
    """A branch's name could be a command; it comes by the environment."""
    assert [script for script in scripts() if "${{" in script] == []


def test_every_action_is_pinned_by_its_commit() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text())
    assert len(used) == len([step for step in steps() if "uses" in step]) > 0
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_only_the_job_that_runs_none_of_our_code_may_write() -> None:
    assert YAML(typ="safe").load(WORKFLOW)["permissions"] == {"contents": "read"}
    assert {job for job in JOBS if "permissions" in JOBS[job]} == {"comment"}
    assert JOBS["comment"]["permissions"] == {"pull-requests": "write"}
    assert [step for step in steps("comment") if "uses" in step] == []
    assert "head.repo.full_name == github.repository" in JOBS["comment"]["if"]  # not from forks


def test_every_job_ends_and_a_newer_push_replaces_the_run() -> None:
    assert all(job["timeout-minutes"] <= 90 for job in JOBS.values())
    assert YAML(typ="safe").load(WORKFLOW)["concurrency"]["cancel-in-progress"] is True


def test_the_container_is_of_the_oldest_python_and_runs_commands_that_exist() -> None:
    assert re.search(r"python:3\.11\b", CONTAINER["image"])
    assert targets(CONTAINER["postCreateCommand"]) == {"setup"} <= MAKEFILE
    assert (REPOSITORY / CONTAINER["onCreateCommand"].removeprefix("sudo ")).is_file()
    assert "iterative.dvc" in CONTAINER["customizations"]["vscode"]["extensions"]


def report(project: Project, base: str, *settings: str) -> str:
    project.run("env", *settings, ".github/report.sh", base)
    return (project.folder / "dvc_plots/report.md").read_text()


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_report_says_so_where_nothing_changed(reproduced: Project) -> None:
    page = report(reproduced, "main")
    for kind in ("setting", "metric", "figure"):
        assert f"No {kind} changed." in page


@pytest.mark.slow
def test_a_base_that_does_not_exist_is_named(reproduced: Project) -> None:
    refused = reproduced.run(".github/report.sh", "nowhere", check=False)
    assert refused.returncode == 1
    assert refused.stdout.splitlines() == [
        "report: there is no revision nowhere; name one: make report BASE=main"
    ]


@pytest.mark.slow
def test_results_that_the_lock_does_not_name_come_from_the_run_cache(
    reproduced: Project, tmp_path: Path
) -> None:
    """As in a workflow without a remote, whose processor rounds otherwise than the author's."""
    (script,) = (script for script in scripts("pipeline") if "rm dvc.lock" in script)
    clone = Project(tmp_path / "clone")
    reproduced.run("git", "clone", "--quiet", str(reproduced.folder), str(clone.folder))
    (clone.folder / ".dvc/cache").symlink_to(reproduced.folder / ".dvc/cache")
    lock = clone.folder / "dvc.lock"
    text = lock.read_text()
    (model,) = set(re.findall(r"models/model\.safetensors\n +hash: md5\n +md5: (\w+)", text))
    lock.write_text(text.replace(model, "0123456789abcdef" * 2))
    clone.run("bash", "-e", "-c", script.replace("source .venv/bin/activate\n", ""))
    assert clone.repro() == []
    assert clone.hashes("data", "metrics", "models") == reproduced.hashes(
        "data", "metrics", "models"
    )
