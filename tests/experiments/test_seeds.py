import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ENVIRONMENT, REPOSITORY, Project
from scipy.stats import ttest_1samp

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.cli import run
from mnist_cnn_train.experiments.dvc import arguments
from mnist_cnn_train.experiments.recipes import read_recipes
from mnist_cnn_train.experiments.seeds import GROUPS, Result, Run, check_settings, report, summarize
from mnist_cnn_train.pipeline.params import changed, find_problems, read_yaml

RECIPES = REPOSITORY / "recipes.yaml"
TRAINER = ("python", "-m", "mnist_cnn_train")


@pytest.mark.parametrize("group", GROUPS)
def test_the_projects_recipes_change_params_into_valid_ones(group: str) -> None:
    content = read_yaml(REPOSITORY / "params.yaml")
    for name, changes in read_recipes(RECIPES, group).items():
        for key, value in changes.items():
            same = changed(content, {key: value}) == content
            assert not same, f"{name}: {key} is so in params.yaml already"
        assert find_problems(changed(content, changes)) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "there is no .*recipes.yaml here"),
        ("published: [", "is not valid YAML"),
        ("other: {}", "has no group 'published'; known: other"),
        ("", "has no group 'published'; known: none"),
        ("published: []", "published should map names to recipes"),
        ("published: {a: 3}", r"published\.a should map dotted keys to settings"),
        ("published: {a: {train: {epochs: 3}}}", r"published\.a should map dotted keys"),
    ],
)
def test_unusable_recipes_are_refused(text: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "recipes.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MnistCnnError, match=problem) as refusal:
        read_recipes(path, "published")
    assert len(str(refusal.value).splitlines()) == 1


def test_the_interval_is_that_of_students_t_test(rng: np.random.Generator) -> None:
    values = rng.normal(0.99, 0.01, 10)
    found = summarize(values.tolist())
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["low_95"] == pytest.approx(interval.low, abs=1e-6)
    assert found["high_95"] == pytest.approx(interval.high, abs=1e-6)
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert found["std"] == pytest.approx(values.std(ddof=1), abs=1e-6)


def test_a_report_has_each_seed_and_what_was_changed() -> None:
    results = {"b": {0: Result({"accuracy": 0.5}, "aa"), 1: Result({"accuracy": 0.7}, "bb")}}
    content = report({"b": {"train.epochs": 2}}, results, pipeline="cc", processor="a processor")
    accuracy = content["b"].pop("accuracy")
    assert (accuracy["seeds"], accuracy["mean"]) == ({"0": 0.5, "1": 0.7}, 0.6)
    assert content["b"] == {
        "changes": {"train.epochs": 2},
        "weights_sha256": {"0": "aa", "1": "bb"},
        "pipeline_weights_sha256": "cc",
        "processor": "a processor",
    }


@pytest.fixture
def project(reproduced: Project) -> Project:
    (reproduced.folder / "recipes.yaml").write_text(
        "published: {default: {}}\nablation: {default: {}, wrong: {train.epochs: -1}}\n"
    )
    return reproduced


def test_a_study_runs_all_seeds_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run(*TRAINER, "seeds", "published", "--seeds", "2")
    study = project.read("metrics/seeds.json")
    assert list(study) == ["default"]
    likelihoods = study["default"]["negative_log_likelihood"]["seeds"]
    assert list(likelihoods) == ["0", "1"]
    assert likelihoods["0"] != likelihoods["1"]
    own = project.read("metrics/accuracy.json")["accuracy"]
    assert study["default"]["accuracy"]["seeds"]["0"] == own
    assert (project.folder / "metrics/plots/seeds.png").is_file()

    # As where DVC mixed up the settings of two.
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    swapped = [Run("published", "default", 1, {"evaluate.min_accuracy": 0.0, "train.seed": 0})]
    with pytest.raises(MnistCnnError, match="DVC ran published-default-1 with other settings"):
        check_settings(swapped)
    assert "published-default-1" not in project.run("dvc", "exp", "list", "--name-only").stdout

    with project.same_files(".dvc/cache/runs"):
        project.run(*TRAINER, "seeds", "published", "--seeds", "2")
    assert project.read("metrics/seeds.json") == study


def test_a_run_that_fails_is_named_and_the_others_are_kept(project: Project) -> None:
    # One at a time: of two that start at once, DVC may rarely run one with the other's setting.
    options = ("--seeds", "2", "--jobs", "1")
    with project.same_files("metrics"):
        result = project.run(*TRAINER, "seeds", "ablation", *options, check=False)
    assert result.returncode == 1
    first, *lines = result.stdout.splitlines()[-3:]
    assert first == "mnist_cnn_train: 2 of 4 runs failed; the others are kept:"
    for seed, line in enumerate(lines):
        assert line.startswith(f"  ablation-wrong-{seed}: ")
        assert "train.epochs: -1; input should be" in line
    assert "ablation-default-1" in project.run("dvc", "exp", "list", "--name-only").stdout


@pytest.mark.parametrize("group", GROUPS)
def test_a_recipe_runs_as_an_experiment_in_a_copy(
    group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda program, command: started.append(command))
    for name, changes in read_recipes(RECIPES, group).items():
        options = ["--name", "x", "-S", "train.seed=3"]
        run.main([name, *options], standalone_mode=False)
        expected = ["dvc", "exp", "run", "--temp", *arguments(changes), *options]
        assert started.pop() == expected


def test_a_misspelled_recipe_runs_nothing(reproduced: Project) -> None:
    before = reproduced.run("dvc", "exp", "list").stdout
    (line,) = reproduced.refused(*TRAINER, "run", "rekord").splitlines()
    assert "recipes.yaml has no recipe 'rekord'; known: original, default" in line
    assert reproduced.run("dvc", "exp", "list").stdout == before
