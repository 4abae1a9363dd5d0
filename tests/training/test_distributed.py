import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from conftest import REPOSITORY, Project, start
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.dataset import read_training_digits
from mnist_cnn_train.data.split import stratified_split
from mnist_cnn_train.model.networks import FastDigitCNN
from mnist_cnn_train.pipeline.params import Params, changed, load_params
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.distributed import (
    SINGLE_PROCESS,
    DistributedGradients,
    ProcessGroup,
    process_group,
)
from mnist_cnn_train.training.log import EpochLog
from mnist_cnn_train.training.loop import Trained, train
from mnist_cnn_train.training.torchrun import launch

# What each process of a test does; each writes what it found.
SCRIPT = """
import sys

from mnist_cnn_train.pipeline.processor import cap

cap()

from safetensors.torch import save_file
from test_distributed import find_all

from mnist_cnn_train.training.distributed import process_group

with process_group("cpu") as processes:
    found = find_all(processes, sys.argv[1])
    found = {name: value.contiguous() for name, value in found.items()}
    save_file(found, f"{sys.argv[1]}.{processes.rank}")
"""

IMAGES = torch.rand(33, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(33) % 10
BATCHES = (33, 32, 3, 1)  # one that is even, two that are not, and one too small to share
NETWORKS = ("linear", "normalized")


def build(name: str) -> nn.Module:
    """One whose gradients are those of the whole batch, and one that normalizes each shard."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return (linear if name == "linear" else FastDigitCNN()).double().train()


def loss(network: nn.Module, chosen: Tensor) -> Tensor:
    return functional.cross_entropy(network(IMAGES[chosen]), LABELS[chosen])


def gradients_of(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def statistics_of(network: nn.Module) -> Tensor:
    buffers = [one.flatten() for one in network.buffers() if one.is_floating_point()]
    return torch.cat([torch.zeros(1).double(), *buffers])


def find_gradients(processes: ProcessGroup) -> dict[str, Tensor]:
    """The loss, gradients and statistics of the first batches of some sizes, for each network."""
    found = {}
    for name in NETWORKS:
        for size in BATCHES:
            network = build(name)
            backward = DistributedGradients(network, processes).backward
            key = f"{name}.{size}"
            found[f"{key}.loss"] = backward(loss, torch.arange(size))
            found[f"{key}.gradients"] = gradients_of(network)
            found[f"{key}.statistics"] = statistics_of(network)
    return found


def learn_recipe(
    processes: ProcessGroup,
    checkpoint: Checkpoint | None = None,
    after_epoch: Callable[[EpochLog], None] | None = None,
) -> Trained:
    """A training on 2,000 digits, augmented and corrupted, in batches that do not split evenly."""
    training = {"device": "cpu", "epochs": 3, "batch_size": 51, "ema_decay": 0.9}
    changes = {f"train.{key}": value for key, value in training.items()}
    settings = load_params(REPOSITORY / "params.yaml").model_dump()
    changes["train.augmentation.corruption"] = 0.3
    params = Params.model_validate(changed(settings, changes))
    digits = stratified_split(read_training_digits(Path(os.environ["DIGITS"])), 2_000, 500, seed=0)
    return train(
        *digits, params.model, params.train, checkpoint, processes, after_epoch=after_epoch
    )


def end_after_two(entry: EpochLog) -> None:
    if entry.epoch == 2:
        raise StopIteration


def find_all(processes: ProcessGroup, path: str) -> dict[str, Tensor]:
    """What one of several processes computes: gradients, and three times the same training."""
    checkpoint = Checkpoint(Path(f"{path}.state"), processes)
    first, again = learn_recipe(processes), learn_recipe(processes)
    with pytest.raises(StopIteration):
        learn_recipe(processes, checkpoint, end_after_two)
    trained = {"first": first, "again": again, "resumed": learn_recipe(processes, checkpoint)}
    found = find_gradients(processes)
    for name, one in trained.items():
        found |= {f"{name}.{key}": value for key, value in one.network.state_dict().items()}
        accuracy = [entry.validation_accuracy for entry in one.log]
        found[f"{name}.accuracy"] = torch.tensor(accuracy)
    return found


@pytest.fixture(scope="module")
def found(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("DIGITS", str(raw_data))
        launch([str(folder / "script.py"), str(folder / "found")], 2)
    yield [load_file(folder / f"found.{rank}") for rank in range(2)]


def part_of(found: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): found[name] for name in found if name.startswith(prefix)}


def assert_same_bytes(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.slow
def test_all_processes_hold_the_same_weights_and_statistics(found: list[dict]) -> None:
    assert_same_bytes(*found)


@pytest.mark.slow
def test_two_processes_train_a_network_that_classifies(found: list[dict]) -> None:
    accuracy = found[0]["first.accuracy"]
    assert len(accuracy) == 3
    assert accuracy[-1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("other", ["again", "resumed"])
def test_two_processes_repeat_and_resume_to_the_same_bytes(found: list[dict], other: str) -> None:
    assert_same_bytes(part_of(found[0], "first."), part_of(found[0], f"{other}."))


@pytest.mark.slow
@pytest.mark.parametrize("size", BATCHES)
def test_gradients_without_batch_norm_are_those_of_the_whole_batch(
    found: list[dict], size: int
) -> None:
    network = build("linear")
    mean = loss(network, torch.arange(size))
    mean.backward()
    torch.testing.assert_close(found[0][f"linear.{size}.loss"], mean.detach())
    torch.testing.assert_close(found[0][f"linear.{size}.gradients"], gradients_of(network))


@pytest.mark.slow
@pytest.mark.parametrize("size", BATCHES)
def test_on_cpus_each_process_normalizes_its_shard_alone(found: list[dict], size: int) -> None:
    chosen = torch.arange(size)
    shards = chosen.tensor_split(2) if size > 1 else (chosen, chosen)
    gradients, statistics = [], []
    for shard in shards:
        network = build("normalized")
        (loss(network, shard) * len(shard) / sum(map(len, shards))).backward()
        gradients.append(gradients_of(network))
        statistics.append(statistics_of(network) / 2)
    torch.testing.assert_close(found[0][f"normalized.{size}.gradients"], sum(gradients))
    torch.testing.assert_close(found[0][f"normalized.{size}.statistics"], sum(statistics))


def test_a_single_process_leads_and_broadcasts_to_itself() -> None:
    with process_group("cpu") as processes:
        assert processes == SINGLE_PROCESS
    assert SINGLE_PROCESS.is_leader
    assert SINGLE_PROCESS.broadcast({"a": 1}) == {"a": 1}


def test_only_the_leader_writes_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state"
    member, leader = (Checkpoint(path, ProcessGroup(rank, 2)) for rank in (1, 0))
    member.save({"a": torch.ones(1)})
    assert not path.exists()
    leader.save({"a": torch.ones(1)})
    member.remove()
    assert path.exists()
    leader.remove()
    assert not path.exists()


@pytest.mark.parametrize(("device", "has_cuda", "gpus"), [("auto", True, 2), ("mps", False, 0)])
def test_more_processes_than_gpus_are_refused(
    device: str, has_cuda: bool, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_RANK", str(gpus))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: not has_cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    message = f"train.processes is above {gpus}, the number of CUDA devices of this machine"
    with pytest.raises(MnistCnnError, match=message), process_group(device):
        pass


@pytest.mark.slow
def test_a_process_that_fails_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import os, time\ntime.sleep(60) if os.environ['RANK'] == '0' else exit(3)")
    with pytest.raises(MnistCnnError, match="process 1 of the training exited with 3"):
        launch([str(script)], 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by what they run")
def test_whichever_process_is_killed_the_run_ends_and_then_goes_on(reproduced: Project) -> None:
    shared = {"train.launcher": "torchrun", "train.processes": 2, "train.epochs": 40}
    reproduced.set(**shared, **{"train.batch_size": 100})
    folder = reproduced.folder / ".checkpoints"

    def last_kept() -> float:
        return max((path.stat().st_mtime for path in folder.glob("train-*")), default=0)

    def processes() -> dict[str, psutil.Process]:
        """The process of each rank that trains in the project."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                trains = process.cmdline()[-2:] == ["stages", "train"]
                if trains and Path(process.cwd()) == reproduced.folder.resolve():
                    found[process.environ().get("RANK")] = process
        return found

    for rank in ("0", "1"):
        before, deadline = last_kept(), time.monotonic() + 60
        with start(reproduced, "dvc", "repro", "train") as running:
            while last_kept() == before:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            processes()[rank].kill()
            told = running.communicate()[0]
        assert running.returncode != 0
        assert f"train: process {rank} of the training was ended by SIGKILL" in told
        assert "Traceback" not in told
        assert not processes()

    assert "resuming after epoch" in reproduced.run("dvc", "repro", "train").stdout
    weights = reproduced.folder / "models/model.safetensors"
    found = sha256(weights)
    reproduced.run("dvc", "repro", "--force", "train")
    assert found == sha256(weights)


@pytest.mark.slow
def test_two_hosts_train_one_network(reproduced: Project, tmp_path: Path) -> None:
    """Here, the hosts are two folders of this one."""
    weights, other = reproduced.folder / "models/model.safetensors", tmp_path / "host"
    reproduced.set(**{"train.launcher": "torchrun", "train.processes": 2})
    reproduced.run("dvc", "repro", "train")
    expected = load_file(weights)
    reproduced.set(**{"train.processes": 1})
    shutil.copytree(reproduced.folder, other, symlinks=True)
    (other / "models/model.safetensors").unlink()
    leader = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "29471"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "stages", "train"],
            cwd=folder,
            env={**os.environ, **leader, "PET_NNODES": "2", "PET_NODE_RANK": str(place)},
        )
        for place, folder in enumerate((reproduced.folder, other))
    ]
    assert [host.wait(timeout=120) for host in hosts] == [0, 0]
    assert_same_bytes(load_file(weights), expected)
    assert not (other / "models/model.safetensors").exists()
