"""The published results belong to the present code: they were measured on the same weights."""

import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from conftest import REPOSITORY

from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn.reader.touching import WEIGHTS
from mnist_cnn_train.experiments.paths import C_HEADER, PICTURES, READER, ROBUSTNESS
from mnist_cnn_train.experiments.recipes import read_recipes
from mnist_cnn_train.experiments.seeds import GROUPS
from mnist_cnn_train.pipeline.params import load_params
from mnist_cnn_train.pipeline.paths import VALIDATION


def committed(name: object) -> Any:
    return json.loads((REPOSITORY / str(name)).read_text())


RECIPES = REPOSITORY / "recipes.yaml"


@pytest.mark.parametrize("group", GROUPS)
def test_a_published_group_was_run_by_code_that_trains_the_same_weights(group: str) -> None:
    weights = committed(VALIDATION)["weights_sha256"]
    report = committed(GROUPS[group].report)
    for found in report.values():
        assert found["pipeline_weights_sha256"] == weights, (
            f"{GROUPS[group].report} is of other training code; "
            f"run `python -m mnist_cnn_train seeds {group}`"
        )
        seeds = next(value["seeds"] for value in found.values() if "seeds" in value)
        assert found["weights_sha256"].keys() == seeds.keys()
        assert found["processor"]


@pytest.mark.parametrize("group", ["published", "ablation"])
def test_the_defaults_first_seed_is_the_pipelines_own_result(group: str) -> None:
    default = committed(GROUPS[group].report)["default"]
    assert default["weights_sha256"]["0"] == committed(VALIDATION)["weights_sha256"]
    source = committed(GROUPS[group].source)
    for metric in GROUPS[group].metrics:
        assert default[metric]["seeds"]["0"] == source[metric]


@pytest.mark.parametrize("group", GROUPS)
def test_the_published_recipes_are_those_of_recipes_yaml(group: str) -> None:
    report = committed(GROUPS[group].report)
    changes = {name: found["changes"] for name, found in report.items()}
    assert changes == read_recipes(RECIPES, group)


def test_the_model_in_the_package_is_the_readers_first_seed() -> None:
    model = onnxruntime.InferenceSession(DEFAULT_MODEL)
    weights = model.get_modelmeta().custom_metadata_map["weights_sha256"]
    assert weights == committed(READER)["reader"]["weights_sha256"]["0"], "run `make release`"
    assert DEFAULT_MODEL.stat().st_size <= 64_000


def test_the_c_header_was_measured_on_the_pipelines_own_network() -> None:
    weights = committed(VALIDATION)["weights_sha256"]
    assert committed(C_HEADER)["base"]["weights_sha256"] == weights, "run benchmarks/c_header.py"


def test_touching_digits_are_chosen_by_weights_fitted_to_the_model_in_the_package() -> None:
    reader = committed(READER)["reader"]["weights_sha256"]
    fitted = json.loads(WEIGHTS.read_text())["weights_sha256"]
    assert fitted == reader["0"], "run `python -m mnist_cnn_train touching`"


@pytest.mark.parametrize("report", [PICTURES, ROBUSTNESS])
def test_the_suites_were_run_on_the_model_in_the_package(report: Path) -> None:
    reader = committed(READER)["reader"]["weights_sha256"]
    assert committed(report)["weights_sha256"] == reader["0"], "run `make pictures`"


def test_every_seed_of_the_default_recipe_passes_the_gate() -> None:
    seeds = committed(GROUPS["published"].report)["default"]["accuracy"]["seeds"]
    assert len(seeds) == 10
    assert min(seeds.values()) >= load_params(REPOSITORY / "params.yaml").evaluate.min_accuracy
