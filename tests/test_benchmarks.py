"""That the benchmarks measure what they say; how fast anything is, no test asks."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import bench
import example
import pytest
import torch
import usual
from conftest import REPOSITORY
from time_inference import CHUNKS, Row
from time_pipeline import Command, Stage
from time_training import Result, _until_the_goal
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mnist_cnn.model import FastDigitCNN


@pytest.mark.parametrize(
    ("network", "parameters"), [(usual.network(), 8_890), (example.network(), 1_199_882)]
)
def test_baselines_have_the_stated_parameters(network: nn.Module, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_multiply_adds_are_those_of_the_network_that_is_timed() -> None:
    with FlopCounterMode(display=False) as counted:
        logits = FastDigitCNN()(torch.zeros(2, 1, 28, 28))
    assert counted.get_total_flops() == 2 * 2 * bench.FORWARD
    with FlopCounterMode(display=False) as counted:
        logits.sum().backward()
    assert counted.get_total_flops() == 2 * 2 * bench.BACKWARD


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [(["--rounds", "1"], "--rounds: should be"), (["--mnist8", "no.onnx"], "no file no.onnx")],
)
def test_unusable_options_are_refused_before_any_work(options: list[str], problem: str) -> None:
    command = [sys.executable, REPOSITORY / "benchmarks/bench.py", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_a_baseline_has_the_first_epoch_whose_mean_reaches_the_goal() -> None:
    runs = [
        [
            {"epoch": epoch, "seconds": 10.0 * epoch + seed, "accuracy": accuracy}
            for epoch, accuracy in enumerate(accuracies, 1)
        ]
        for seed, accuracies in enumerate([(0.98, 0.992, 0.995), (0.991, 0.989, 0.995)])
    ]
    found = _until_the_goal("some", runs)
    assert (found.epochs, found.reached, found.seconds) == (2, True, [20, 21])
    never = _until_the_goal("other", [run[:1] for run in runs])
    assert (never.epochs, never.reached) == (1, False)


@pytest.mark.slow
def test_ours_is_the_recipe_speed_and_learns(raw_data: Path, tmp_path: Path) -> None:
    """In a folder of its own, since the script reads data/raw where it runs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/raw").symlink_to(raw_data)
    for name in ("params.yaml", "recipes.yaml"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    command = [sys.executable, REPOSITORY / "benchmarks/ours.py", "--seed", "3"]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    (line,) = (line for line in output.stdout.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert found["accuracy"] > 0.98
    assert found["seconds"] > 0


def test_the_report_has_every_contender_and_the_ratios() -> None:
    training = [
        Result("ours", 2, True, [5.0, 6.0, 7.0], [0.99, 0.991, 0.992]),
        Result("usual script", 5, False, [120.0, 120.0, 90.0], [0.98, 0.981, 0.982]),
    ]
    inference = [
        Row(reader, threads, chunk, 20.0, 19.0, 21.0)
        for reader in ("onnxruntime", "torch")
        for threads in (1, 2)
        for chunk in CHUNKS
    ]
    commands = [Command("`dvc status`", 0.5, 0.4, 0.6), Command("`dvc repro`", 0.75, 0.7, 0.8)]
    stages = [Stage("train", 2.0, 130.0, 600.0), Stage("export", 3.0, 8.0, 700.0)]
    options = Namespace(rounds=3, threads=2)
    text = bench.report(options, inference, commands, stages, {1: 50.0, 2: 100.0}, training)
    usual_row = "usual script | 5, not reached | 98.10 ± 0.10 % | 120.0 s | 90.0 to 120.0 s | 20.0"
    assert f"| {usual_row} |" in text
    assert "| `dvc repro` | 0.75 s | 0.70 to 0.80 s | 1.50 |" in text
    assert "| all | 5.0 s | 138.0 s |  |" in text
    # 60,000 images x 2 epochs in 6 s, at 1,476,288 multiply-adds each, of 100 · 10⁹
    assert "| training, 2 threads | 29.5 | 30% |" in text
