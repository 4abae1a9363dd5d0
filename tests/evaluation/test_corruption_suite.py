import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from PIL import Image

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.onnxfile.model import DigitModel
from mnist_cnn_train.cli import commands
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.corruption_suite import (
    SEVERITIES,
    evaluate_corruptions,
    examples,
    headline,
)
from mnist_cnn_train.evaluation.held_out import HELD_OUT
from mnist_cnn_train.transforms.corruptions import TRAINING


@pytest.fixture(scope="module")
def few(test_digits: Dataset) -> Dataset:
    return test_digits.take(np.arange(100))


def judged(model: Path, digits: Dataset) -> dict[str, Any]:
    opened = DigitModel(model)

    def read(images: Any) -> Any:
        outputs = opened.run(images)
        return outputs.logits, outputs.is_doubtful

    return evaluate_corruptions(read, digits)


@pytest.mark.slow
def test_a_model_is_judged_by_corruption_and_severity(trained_model: Path, few: Dataset) -> None:
    report = judged(trained_model, few)
    assert report["images"] == 100
    assert report["clean_accuracy"] > 0.95
    for group, corruptions in (("training", TRAINING), ("held_out", HELD_OUT)):
        found = report[group]
        assert found["accuracy"].keys() == corruptions.keys()
        cells = [accuracy for row in found["accuracy"].values() for accuracy in row]
        assert len(cells) == len(corruptions) * len(SEVERITIES)
        assert found["mean_error"] == pytest.approx(1 - np.mean(cells), abs=1e-4)
        assert found["risk_by_coverage"]["100%"] == found["mean_error"]
        assert found["risk_by_coverage"]["10%"] < found["mean_error"]
        assert 0 < found["calibration_error"] < 1
        assert found["warned"][0] < found["warned"][-1]  # more damage, more warnings
    assert headline(report)["held_out_corruption_error"] == report["held_out"]["mean_error"]
    json.dumps(report)
    assert judged(trained_model, few) == report


@pytest.mark.slow
def test_a_model_without_bounds_is_judged(
    trained_model: Path, few: Dataset, tmp_path: Path
) -> None:
    model = onnx.load(trained_model)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    report = judged(tmp_path / "other.onnx", few.take(np.arange(10)))
    assert "warned" not in report["held_out"]


def test_there_is_an_example_of_each_cell(few: Dataset) -> None:
    found = examples(few)
    for group, corruptions in (("training", TRAINING), ("held_out", HELD_OUT)):
        assert found[group].keys() == corruptions.keys()
        assert all(len(images) == len(SEVERITIES) for images in found[group].values())


@pytest.mark.slow
def test_the_command_writes_the_report_and_draws_it(
    trained_model: Path, raw_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/raw").symlink_to(raw_data)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    command = ["evaluate", "--suite", "--images", "50", str(trained_model)]
    chosen = CliRunner().invoke(commands, [*command, "--validation"])
    assert "50 images: accuracy" in chosen.output
    assert not Path("metrics").exists()
    judged = CliRunner().invoke(commands, command)
    assert judged.exit_code == 0
    assert judged.output != chosen.output
    report = json.loads(Path("metrics/robustness.json").read_text())
    assert report["images"] == 50
    with Image.open("metrics/plots/robustness.png") as picture:
        assert min(picture.size) > 700


@pytest.mark.parametrize("options", [["--images", "50"], ["--validation"]])
def test_options_of_the_suite_are_refused_without_it(options: list[str]) -> None:
    result = CliRunner().invoke(commands, ["evaluate", *options])
    assert result.exit_code == 2
    assert "belong to --suite" in result.output


def test_a_model_that_takes_something_else_is_refused_in_one_line(tmp_path: Path) -> None:
    graph = """<ir_version: 8, opset_import: ["" : 18]>
        other (float[1, 28, 28] image) => (float[1, 28, 28] logits) { logits = Identity(image) }"""
    onnx.save(onnx.parser.parse_model(graph), tmp_path / "other.onnx")
    with pytest.raises(MnistCnnError, match="nor one that takes uint8 images as 'image'"):
        DigitModel(tmp_path / "other.onnx")
