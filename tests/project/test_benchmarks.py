"""That the benchmarks measure what they say; how fast anything is, no test asks."""

import json
import sys
from pathlib import Path

import bench
import example
import gpu
import numpy as np
import pareto
import profile_training
import pytest
import reader_ablation
import torch
import usual
from conftest import REPOSITORY, shell
from profile_training import Operation
from time_pipeline import Command, Stage
from time_training import Result, _until_the_goal
from torch import nn

from mnist_cnn_train.data.dataset import Dataset


@pytest.mark.parametrize(
    ("network", "parameters"), [(usual.network(), 8_890), (example.network(), 1_199_882)]
)
def test_baselines_have_the_stated_parameters(network: nn.Module, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_multiply_adds_are_counted_forward_and_backward() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 784, 10))
    forward = 8 * 784 * 9 + 8 * 784 * 10
    assert bench.count_work(network) == bench.Work(forward, 2 * forward - 8 * 784 * 9)


@pytest.mark.slow
def test_too_few_rounds_are_refused_before_any_work() -> None:
    result = shell(sys.executable, "benchmarks/bench.py", "--rounds", "1", check=False)
    assert result.returncode == 2
    assert "--rounds: should be" in result.stderr
    assert "Traceback" not in result.stderr


def test_outlier_losses_push_digits_and_non_digits_apart() -> None:
    sure, flat = torch.tensor([[20.0] + [0.0] * 9]), torch.zeros(1, 10)
    digit, non_digit = torch.tensor([0]), torch.tensor([10])
    for loss in (reader_ablation.entropic, reader_ablation.energy):
        assert loss(sure, digit) < loss(flat, digit)
        both = torch.cat([sure, flat]), torch.cat([digit, non_digit])
        swapped = torch.cat([flat, sure]), torch.cat([digit, non_digit])
        assert loss(*both) < loss(*swapped)
    uniform = reader_ablation.entropic(flat, non_digit)
    assert uniform == pytest.approx(np.log(10))  # the least there is, for ten classes
    # Energies of -20 and -log 10, where at most -23 and at least -5 are asked for.
    assert reader_ablation.energy(*both) == pytest.approx(0.1 * 3**2 / 2, rel=1e-3)


def test_scores_without_an_eleventh_output_are_higher_for_what_is_no_digit() -> None:
    logits = np.array([[20.0] + [0.0] * 9, [2.0] + [0.0] * 9], np.float32)
    for score in (reader_ablation.odds_of_the_rest, reader_ablation.free_energy):
        digit, doubtful = score(logits)
        assert digit < doubtful


def test_networks_of_a_size_have_at_most_its_parameters() -> None:
    for limit, kinds in pareto.NETWORKS.items():
        for kind in kinds:
            assert pareto.Networks(kind, 2).parameters_each <= limit


def test_networks_side_by_side_are_independent() -> None:
    networks = pareto.Networks("2p d4 mean", 3)
    images = torch.rand(5, 1, 28, 28).expand(-1, 3, -1, -1).contiguous().requires_grad_()
    networks(images)[1].square().sum().backward()
    assert images.grad is not None
    assert [bool(images.grad[:, seed].any()) for seed in range(3)] == [False, True, False]


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
    script = REPOSITORY / "benchmarks/ours.py"
    output = shell(sys.executable, script, "--seed", "3", cwd=tmp_path).stdout
    (found,) = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    assert found["accuracy"] > 0.98
    assert found["seconds"] > 0


def test_the_report_has_every_contender_and_the_ratios() -> None:
    training = [
        Result("ours", 2, True, [5.0, 6.0, 7.0], [0.99, 0.991, 0.992]),
        Result("usual script", 5, False, [120.0, 120.0, 90.0], [0.98, 0.981, 0.982]),
    ]
    found = bench.Measured(
        training=training,
        images=120_000,
        trained=bench.Work(500_000, 1_000_000),
        operations=[Operation("ReLU", 0.1), Operation("max-pool, forward", 0.25)],
        peaks={1: 50.0, 2: 100.0},
        commands=[Command("`dvc status`", 0.5, 0.4, 0.6), Command("`dvc repro`", 0.75, 0.7, 0.8)],
        stages=[Stage("train", 2.0, 130.0, 600.0), Stage("export", 3.0, 8.0, 700.0)],
    )
    text = bench.report(found, rounds=3, threads=2)
    usual_row = "usual script | 5, not reached | 98.10 ± 0.10 % | 120.0 s | 90.0 to 120.0 s | 20.0"
    assert f"| {usual_row} |" in text
    assert "| `dvc repro` | 0.75 s | 0.70 to 0.80 s | 1.50 |" in text
    assert "| all | 5.0 s | 138.0 s |  |" in text
    assert "| max-pool, forward | 25.0% |\n| ReLU | 10.0% |" in text
    # 120,000 images in 6 s, at 1,500,000 multiply-adds each, of 100 · 10⁹
    assert "| training, 2 threads | 30.0 | 30% |" in text


@pytest.mark.slow
def test_the_profile_finds_every_operation_that_it_lists(
    small_digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(profile_training, "read_training_digits", lambda _: small_digits[0])
    found = profile_training.measure()
    assert sum(operation.share for operation in found) == pytest.approx(1)
    assert all(0 < operation.share < 1 for operation in found)


@pytest.mark.slow
def test_each_training_on_a_gpu_starts_from_the_new_weights_of_its_seed(
    small_digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training, validation = small_digits
    trainer = gpu.Trainer(gpu.Recipe(3, 50), gpu.Execution(), training, device)

    def weights(seed: int) -> list[torch.Tensor]:
        trainer.train(seed)
        return [value.clone() for value in trainer.network.state_dict().values()]

    first, other, again = weights(1), weights(2), weights(1)
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first[0], other[0])
    assert trainer.accuracy(validation) > 0.9
