"""Training on a GPU; skipped where there is none."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Project, copy_files
from safetensors.torch import load_file
from test_distributed import gradients_of
from torch import Tensor, nn
from torch.nn import functional

from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.dataset import Dataset, read_training_digits
from mnist_cnn_train.data.split import stratified_split
from mnist_cnn_train.model.networks import ARCHITECTURES
from mnist_cnn_train.pipeline.params import Params, changed
from mnist_cnn_train.training.augmentation import epoch_images
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.distributed import DistributedGradients, ProcessGroup
from mnist_cnn_train.training.log import EpochLog
from mnist_cnn_train.training.loop import Trained, train
from mnist_cnn_train.training.torchrun import launch

GPU = "cuda"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]

SHORT = {
    "train.device": GPU,
    "train.epochs": 3,
    "train.batch_size": 100,
    "train.ema_decay": 0.9,
}
CASES: dict[str, dict[str, Any]] = {
    **{name: {"model.architecture": name} for name in ARCHITECTURES},
    "non-digits": {"model.not_a_digit": True, "model.normalization": "image"},
    "dropout": {"model.dropout": 0.2, "train.ema_decay": 0.0},
    "adamw": {"train.optimizer": "adamw", "train.learning_rate": 0.01},
    "hard examples": {"train.hard_example_fraction": 0.5},
    "corruption": {"train.augmentation.corruption": 0.5},
}

Settings = Callable[..., Params]


@pytest.fixture(scope="module")
def settings(params: Params) -> Settings:
    """The project's own settings, for a short training, with some changes."""

    def made(**changes: Any) -> Params:
        return Params.model_validate(changed(params.model_dump(), {**SHORT, **changes}))

    return made


def same(first: Trained, second: Trained) -> bool:
    weights = (one.network.state_dict().values() for one in (first, second))
    return all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_training_repeats_and_resumes_to_the_same_weights(
    case: str, settings: Settings, small_digits: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    chosen = settings(**CASES[case])
    arguments = (*small_digits, chosen.model, chosen.train)

    def interrupt(entry: EpochLog) -> None:
        if entry.epoch == 2:
            raise KeyboardInterrupt

    first, again = train(*arguments), train(*arguments)
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, Checkpoint(tmp_path / "state"), after_epoch=interrupt)
    resumed = train(*arguments, Checkpoint(tmp_path / "state"), after_epoch=interrupt)
    assert same(first, again)
    assert same(first, resumed)
    assert first.log == again.log == resumed.log
    assert first.log[-1].validation_accuracy > 0.8


def test_the_accuracy_is_that_of_the_cpu(settings: Settings, raw_data: Path) -> None:
    digits = stratified_split(read_training_digits(raw_data), 10_000, 5_000, seed=0)
    on_gpu, on_cpu = (
        train(*digits, chosen.model, chosen.train).log[-1].validation_accuracy
        for chosen in (settings(), settings(**{"train.device": "cpu"}))
    )
    assert on_cpu > 0.97
    assert on_gpu == pytest.approx(on_cpu, abs=0.01)


def test_the_augmented_images_are_those_of_the_cpu(
    settings: Settings, small_digits: tuple[Dataset, Dataset]
) -> None:
    recipe = settings(**CASES["corruption"]).train
    pixels = torch.from_numpy(small_digits[0].images)
    on_gpu, on_cpu = (
        epoch_images(pixels.to(device), recipe, 1).pixels.cpu().int() for device in (GPU, "cpu")
    )
    # A pixel on the edge of a shape may fall on its other side.
    assert ((on_gpu - on_cpu).abs() <= 1).float().mean() > 0.999


IMAGES = torch.rand(33, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(33) % 10


def mean_loss(network: nn.Module, chosen: Tensor) -> Tensor:
    images, labels = (values.to(chosen.device)[chosen] for values in (IMAGES, LABELS))
    return functional.cross_entropy(network(images), labels)


def new_network(architecture: str) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[architecture]().double().train()


def plain(architecture: str, device: str) -> dict[str, Tensor]:
    """The loss, gradients and running statistics of a batch, without any parallelism."""
    network = new_network(architecture).to(device)
    loss = mean_loss(network, torch.arange(len(LABELS), device=device))
    loss.backward()
    return found_in(network, loss.detach())


def found_in(network: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    statistics = torch.cat([one.flatten() for one in network.buffers() if one.ndim])
    return {
        "loss": loss.cpu(),
        "gradients": gradients_of(network).cpu(),
        "statistics": statistics.cpu(),
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_the_cpu(architecture: str) -> None:
    torch.testing.assert_close(plain(architecture, GPU), plain(architecture, "cpu"))


# Each process writes what it found. NCCL refuses two processes on one GPU, so two use Gloo.
SCRIPT = f"""
import os, sys
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from test_cuda import found_in_process
from mnist_cnn_train.training.distributed import ProcessGroup, process_group

if os.environ["WORLD_SIZE"] == "1":
    with process_group("{GPU}") as processes:
        assert dist.get_backend() == "nccl"
        found = found_in_process(processes)
else:
    dist.init_process_group("gloo")
    processes = ProcessGroup(dist.get_rank(), dist.get_world_size())
    found = found_in_process(processes)
    dist.destroy_process_group()
save_file(found, f"{{sys.argv[1]}}.{{processes.rank}}")
"""


def found_in_process(processes: ProcessGroup) -> dict[str, Tensor]:
    """What `plain` finds, by one of several processes on the same GPU."""
    network = new_network("fast").to(GPU)
    backward = DistributedGradients(network, processes).backward
    return found_in(network, backward(mean_loss, torch.arange(len(LABELS), device=GPU)))


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_have_the_gradients_and_batch_statistics_of_the_whole_batch(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    launch([str(tmp_path / "script.py"), str(tmp_path / "found")], processes)
    for rank in range(processes):
        torch.testing.assert_close(load_file(tmp_path / f"found.{rank}"), plain("fast", GPU))


@pytest.fixture(scope="module")
def trained(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that has trained on a GPU, in one process without torchrun."""
    project = copy_files(tmp_path_factory.mktemp("gpu"))
    (project.folder / "data/raw").symlink_to(raw_data)
    split = {"data.split.train_images": 2_000, "data.split.validation_images": 500}
    project.set(**SHORT, **split)
    for stage in ("synthesize", "train"):
        project.run("python", "stages", stage)
    return project


def test_one_process_of_torchrun_trains_the_same_weights(trained: Project) -> None:
    weights = trained.folder / "models/model.safetensors"
    expected = sha256(weights)
    weights.unlink()
    trained.set(**{"train.launcher": "torchrun"})
    trained.run("python", "stages", "train")
    assert sha256(weights) == expected


def test_a_process_too_many_is_refused_in_one_line(trained: Project) -> None:
    gpus = torch.cuda.device_count()
    trained.set(**{"train.launcher": "torchrun", "train.processes": gpus + 1})
    told = trained.refused("python", "stages", "train")
    assert f"train: train.processes is above {gpus}, the number of CUDA devices" in told
