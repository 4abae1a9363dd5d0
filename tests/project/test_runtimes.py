"""Every runtime that is installed reads the ONNX files alike; docs/runtimes.md has the results."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import runtimes
from conftest import REPOSITORY
from dvc.utils.serialize import load_yaml
from runtimes import FILES, RUNTIMES, MissingError, Run, Runtime

from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.experiments.paths import RUNTIMES as RESULTS
from mnist_cnn_train.pipeline.paths import ONNX_INT8_MODEL

REPORT = json.loads((REPOSITORY / RESULTS).read_text())


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    starting = RUNTIMES[request.param]()
    try:
        started = starting.__enter__()
    except MissingError as missing:
        pytest.skip(f"needs {request.param}: {missing}")
    yield started
    starting.__exit__(None, None, None)


@pytest.fixture(params=FILES)
def file(request: pytest.FixtureRequest, trained_model: Path) -> Path:
    path = {"fp32": trained_model, "int8": REPOSITORY / ONNX_INT8_MODEL, "reader": DEFAULT_MODEL}
    if not path[request.param].is_file():
        pytest.skip("needs the pipeline's output: dvc repro")
    return path[request.param]


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "count"), [(1, 20), (50, 500)])
def test_every_runtime_gives_the_probabilities_of_onnxruntime(
    batch: int, count: int, runtime: Runtime, file: Path, test_digits: Dataset
) -> None:
    images = test_digits.images[:count]
    with runtimes.onnxruntime() as reference:
        expected, _ = reference.open(file)(images, 32)
    found, _ = runtime.open(file)(images, batch)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_table_is_of_the_present_files() -> None:
    lock = load_yaml(str(REPOSITORY / "dvc.lock"))["stages"]["export"]["outs"]
    known = {entry["path"]: entry["md5"] for entry in lock}
    for kind, path in FILES.items():
        made = REPORT["files"][kind]["md5"]
        if path == DEFAULT_MODEL:
            assert made == hashlib.md5(path.read_bytes()).hexdigest()
        else:
            assert made == known[str(path)], "run `python benchmarks/runtimes.py`"


def test_all_runtimes_agree_in_the_table() -> None:
    for found in REPORT["files"].values():
        assert found["runtimes"].keys() == RUNTIMES.keys()
        for one in found["runtimes"].values():
            assert one["same_classes"] == REPORT["images"]
            assert one["largest_difference"] <= 1e-4


def test_a_difference_is_counted_and_times_are_the_least() -> None:
    def answers(*labels: int, seconds: list[float]) -> Run:
        probabilities = np.eye(10, dtype=np.float32)[list(labels)]
        return lambda images, size: (probabilities, seconds.pop(0) / size)

    images = np.zeros((3, 28, 28), np.uint8)
    runs = {
        "first": answers(1, 2, 3, seconds=[0.5] * 7),
        "other": answers(1, 2, 4, seconds=[0.1, 0.1, 0.2, 0.2, 0.9, 0.9]),
    }
    found = runtimes.measure(runs, images, rounds=3)
    assert found["first"]["same_classes"] == 3
    assert found["other"] == {
        "same_classes": 2,
        "largest_difference": 1.0,
        "microseconds": 100_000.0,
        "images_per_second": 320,
    }
