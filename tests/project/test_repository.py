"""What the project promises about its own files."""

import ast
import json
import re
import subprocess
import tomllib
from itertools import chain
from typing import Any

from conftest import REPOSITORY

from mnist_cnn_train.experiments.recipes import read_recipes
from mnist_cnn_train.experiments.seeds import GROUPS
from mnist_cnn_train.pipeline.params import load_params


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.splitlines()


def test_the_lock_pins_every_package_by_hash_and_names_no_address() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z0-9][^\n]*", lock, re.MULTILINE)
    assert len(pins) > 100
    assert all(re.match(r"[a-z0-9.-]+==\S+ .*\\$", pin) for pin in pins)
    assert lock.count("--hash=sha256:") >= len(pins)
    assert "://" not in lock
    assert "--index-url" not in lock


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *chain(*project["project"]["optional-dependencies"].values()),
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    lock = (REPOSITORY / "requirements.lock").read_text()
    for requirement in asked:
        name = re.split(r"[\[=><]", requirement)[0]
        if name == "mnist-cnn":  # one extra that asks for another
            continue
        assert f"\n{name}==" in lock, f"run `make lock`: {name} is missing"
    assert "\ntorch==2.14.1 " in lock
    assert "\ntorchvision==0.29.1 " in lock


def test_no_file_names_a_registrys_address() -> None:
    address = re.compile(rb"(pypi|pythonhosted|npmjs|yarnpkg)\.(org|com)")
    named = [
        name
        for name in tracked()
        if (path := REPOSITORY / name).is_file() and address.search(path.read_bytes())
    ]
    assert named == []


def test_what_the_pipeline_makes_is_not_in_git() -> None:
    kept = [name for name in tracked() if name.startswith(("data/", "models/"))]
    assert kept == ["data/own/README.md"]  # which says what to put there


def test_ci_runs_the_readmes_test_command() -> None:
    script = (REPOSITORY / ".ci/run").read_text()
    assert script.rstrip().splitlines()[-1] == "make test"
    assert "make test" in (REPOSITORY / "README.md").read_text()


def test_dvc_sends_no_analytics() -> None:
    assert "analytics = false" in (REPOSITORY / ".dvc/config").read_text()


def committed(name: str) -> Any:
    """The content of a metrics file as it is in git: another device may have made another here."""
    shown = subprocess.run(
        ["git", "show", f":{name}"], cwd=REPOSITORY, capture_output=True, check=True
    )
    return json.loads(shown.stdout)


def test_the_readmes_headline_is_what_the_pipeline_measured() -> None:
    metrics = committed("metrics/accuracy.json")
    accuracy, low, high = (
        100 * metrics[name] for name in ("accuracy", "accuracy_95_low", "accuracy_95_high")
    )
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    assert f"{accuracy:.2f} % of the 10,000 test images" in readme
    assert f"95 % interval {low:.2f} to {high:.2f} %" in readme


def test_the_documented_processors_are_those_that_gave_the_golden_bytes() -> None:
    (entry,) = json.loads((REPOSITORY / "tests/project/golden.json").read_text())
    page = (REPOSITORY / "docs/reproducibility.md").read_text()
    digests = re.findall(r"`([0-9a-f]{16})`", page)
    assert len(digests) >= len(entry["processors"])
    assert set(digests) == {entry["digests"]["models/model.safetensors"][:16]}


def test_the_page_on_reliability_names_each_test_that_causes_a_fault() -> None:
    page = (REPOSITORY / "docs/reliability.md").read_text()
    causing = set()
    for path in (REPOSITORY / "tests").glob("test_*.py"):
        tree = ast.parse(path.read_text())
        everywhere = any(
            isinstance(node, ast.Assign) and "pytest.mark.fault" in ast.unparse(node)
            for node in tree.body
        )
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = map(ast.unparse, node.decorator_list)
                if everywhere or "pytest.mark.fault" in marks:
                    causing.add((path.stem, node.name))
    assert len(causing) > 30
    assert set(re.findall(r"`(test_\w+)\.(test_\w+)`", page)) == causing


def rows(document: str, header: str) -> dict[str, list[str]]:
    """The cells of the table below `header`, by the recipe in the first column, in backticks."""
    text = (REPOSITORY / document).read_text()
    table = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return {name.strip("`"): rest for name, *rest in cells}


def test_the_readmes_table_of_recipes_is_what_the_study_measured() -> None:
    study = committed("metrics/seeds.json")
    table = rows("README.md", "| recipe |")
    assert table.keys() == study.keys()
    for name, found in study.items():
        accuracy, likelihood, calibration = (
            found[metric] for metric in ("accuracy", "negative_log_likelihood", "calibration_error")
        )
        low, high = (100 * accuracy[bound] for bound in ("low_95", "high_95"))
        assert table[name][-4:] == [
            f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f} %",
            f"{low:.2f} to {high:.2f} %",
            f"{likelihood['mean']:.4f} ± {likelihood['std']:.4f}",
            f"{calibration['mean']:.4f} ± {calibration['std']:.4f}",
        ]


def test_the_documented_ablation_is_what_was_measured() -> None:
    ablation = committed("metrics/ablation.json")
    table = rows("docs/recipe.md", "| recipe |")
    assert table.keys() == ablation.keys()
    for name, found in ablation.items():
        accuracy, loss = found["validation_accuracy"], found["validation_loss"]
        assert table[name][1:3] == [
            f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f} %",
            f"{loss['mean']:.4f} ± {loss['std']:.4f}",
        ]


def test_the_documented_robustness_is_what_was_measured() -> None:
    study = committed("metrics/robust.json")
    table = rows("docs/robustness.md", "| recipe | accuracy, clean | errors, trained")
    accuracy, *errors = (
        study["robust"][name]
        for name in (
            *("accuracy", "corruption_error"),
            *("held_out_corruption_error", "held_out_calibration_error"),
        )
    )
    assert table["robust"] == [
        f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f} %",
        *(f"{100 * found['mean']:.1f} ± {100 * found['std']:.1f} %" for found in errors[:2]),
        f"{errors[2]['mean']:.3f} ± {errors[2]['std']:.3f}",
    ]
    report = committed("metrics/robustness.json")
    assert report["images"] == 2_000
    assert (
        f"{100 * report['held_out']['mean_error']:.1f} %"
        in (REPOSITORY / "docs/robustness.md").read_text()
    )


def test_the_study_is_of_the_recipes_in_recipes_yaml() -> None:
    for group, judged in GROUPS.items():
        measured = committed(str(judged.report))
        recipes = read_recipes(REPOSITORY / "recipes.yaml", group)
        assert {name: found["changes"] for name, found in measured.items()} == recipes


def test_every_seed_of_the_default_recipe_passes_the_gate() -> None:
    study = committed("metrics/seeds.json")
    gate = load_params(REPOSITORY / "params.yaml").evaluate.min_accuracy
    seeds = study["default"]["accuracy"]["seeds"]
    assert len(seeds) == 10
    assert min(seeds.values()) >= gate
