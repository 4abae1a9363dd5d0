import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, Project, start
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.dataset import read_training_digits
from mnist_cnn_train.data.split import stratified_split
from mnist_cnn_train.model.networks import DeepDigitCNN, DigitCNN, build
from mnist_cnn_train.pipeline.params import Model, load_params
from mnist_cnn_train.training import loop
from mnist_cnn_train.training.distributed import (
    SINGLE_PROCESS,
    ProcessGroup,
    SynchronizedBatchNorm,
    launch,
    synchronize,
)
from mnist_cnn_train.training.parallel import Loss, ThreadedGradients

# What each process of a test does, in double precision; the leader writes what it found.
SCRIPT = """
import sys

import torch
from safetensors.torch import save_file
from test_distributed import learn_recipe, learn_steps, network

from mnist_cnn_train.training.distributed import DistributedGradients, joined, synchronize

with joined("cpu") as processes:
    one = network()
    synchronize(one, processes)
    losses = learn_steps(one, DistributedGradients(one, processes).backward)
    found = {"losses": losses, **one.state_dict()}
    found |= {f"recipe.{name}": value for name, value in learn_recipe(processes).items()}
    if processes.leads:
        save_file({name: value.contiguous() for name, value in found.items()}, sys.argv[1])
"""

STEPS = 50
IMAGES = torch.rand(330, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.arange(330) % 10


def network() -> nn.Module:
    torch.manual_seed(0)
    return DeepDigitCNN().to(torch.double, memory_format=torch.channels_last)


def loss(network: nn.Module, chosen: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(network(IMAGES[chosen]), LABELS[chosen])


def learn_steps(
    one: nn.Module, backward: Callable[[Loss, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """The losses of steps on batches of 33, 32, 3 and 2 images in turn."""
    optimizer = SGD(one.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(STEPS):
        chosen = torch.arange(step, step + (33, 32, 3, 2)[step % 4])
        losses.append(backward(loss, chosen).clone())
        optimizer.step()
    return torch.stack(losses)


def build_double(described: Model, classes: int) -> nn.Module:
    """What `build` gives, in double precision inside."""
    one = build(described, classes).double()
    one.register_forward_pre_hook(lambda _, images: (images[0].double(),))
    return one


def learn_recipe(processes: ProcessGroup) -> dict[str, torch.Tensor]:
    """Weights, and the accuracy by epoch, that `train` gives of damaged and of hard images."""
    params = load_params(REPOSITORY / "params.yaml")
    data = read_training_digits(Path(os.environ["DIGITS"]))
    learned, watched = stratified_split(data, 2_000, 500, seed=0)
    recipe = params.train.model_copy(
        update={
            "epochs": 3,
            "hard_example_fraction": 0.5,
            "batch_size": 50,
            "ema_decay": 0.0,
            "augmentation": params.train.augmentation.model_copy(update={"corruption": 0.5}),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "build", build_double)
        trained = loop.train(learned, watched, params.model, recipe, processes=processes)
    accuracy = torch.tensor([entry.validation_accuracy for entry in trained.log])
    return {"accuracy": accuracy, **trained.network.state_dict()}


@pytest.fixture(scope="module")
def shared(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    script, found = folder / "script.py", folder / "found"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DIGITS": str(raw_data)}
    subprocess.run([*command, str(script), str(found)], env=environment, check=True, timeout=120)
    return load_file(found)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_but_for_the_rounding(
    shared: dict[str, torch.Tensor],
) -> None:
    one = network().train()
    with ThreadedGradients(one, 1) as gradients:
        losses = learn_steps(one, gradients.backward)
    assert losses[-4:].mean() < losses[:4].mean()
    torch.testing.assert_close(shared.pop("losses"), losses, rtol=1e-9, atol=1e-9)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(shared[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_two_processes_train_the_network_of_one_but_for_the_rounding(
    shared: dict[str, torch.Tensor], raw_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIGITS", str(raw_data))
    alone = learn_recipe(SINGLE_PROCESS)
    assert alone["accuracy"][-1] > 0.8
    assert torch.equal(shared["recipe.accuracy"], alone["accuracy"])
    for name, value in alone.items():
        torch.testing.assert_close(shared[f"recipe.{name}"], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("images", [8, 9, 128])
def test_shares_are_the_whole_and_nearly_even(count: int, images: int) -> None:
    chosen = torch.randperm(images)
    shares = [ProcessGroup(rank, count).share(chosen) for rank in range(count)]
    assert torch.equal(torch.cat(shares), chosen)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_batch_too_small_to_share_is_taken_by_every_process() -> None:
    assert torch.equal(ProcessGroup(2, 3).share(torch.arange(2)), torch.arange(2))


def test_a_process_alone_sums_and_tells_what_it_has() -> None:
    assert SINGLE_PROCESS.is_leader
    assert SINGLE_PROCESS.all_reduce(torch.tensor(3.0)) == 3
    assert SINGLE_PROCESS.broadcast_from_leader({"a": 1}) == {"a": 1}


def test_synchronized_norms_keep_parameters_names_and_what_is_read() -> None:
    plain, twin = network(), network()
    parameters = dict(twin.named_parameters())
    synchronize(twin, ProcessGroup(0, 2))
    assert sum(isinstance(module, SynchronizedBatchNorm) for module in twin.modules()) == 5
    assert all(value is parameters[name] for name, value in twin.named_parameters())
    assert plain.state_dict().keys() == twin.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(plain.eval()(IMAGES), twin.eval()(IMAGES))


def test_a_network_of_one_process_keeps_its_norms() -> None:
    alone = DigitCNN()
    synchronize(alone, SINGLE_PROCESS)
    assert not any(isinstance(module, SynchronizedBatchNorm) for module in alone.modules())


@pytest.mark.slow
def test_a_process_that_fails_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import os, time\ntime.sleep(60) if os.environ['RANK'] == '0' else exit(3)")
    with pytest.raises(MnistCnnError, match="process 1 of the training exited with 3"):
        launch([str(script)], 2)
    assert "Traceback" not in capfd.readouterr().err


def learn(project: Project, **settings: object) -> dict[str, torch.Tensor]:
    """The weights that the train stage gives by some `settings`."""
    project.set(**{key.replace("__", "."): value for key, value in settings.items()})
    project.run("dvc", "repro", "train")
    return load_file(project.folder / "models/model.safetensors")


def processes_of(project: Project) -> dict[int, int]:
    """The process of each rank that trains in `project`."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            trains = b"stages\0train\0" in (folder / "cmdline").read_bytes()
            here = (folder / "cwd").resolve() == project.folder.resolve()
        except OSError:
            continue
        ranks = [line for line in environment if re.fullmatch(r"RANK=\d+", line)]
        if trains and here and ranks:
            found[int(ranks[0].removeprefix("RANK="))] = int(folder.name)
    return found


def wait_for(happened: Callable[[], object]) -> None:
    for _ in range(600):
        if happened():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen within a minute")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_whichever_process_is_killed_the_run_ends_and_then_goes_on(reproduced: Project) -> None:
    shared = {"train.launcher": "torchrun", "train.processes": 2, "train.epochs": 40}
    reproduced.set(**shared, **{"train.batch_size": 100})
    folder = reproduced.folder / ".checkpoints"

    def state() -> float:
        """When an epoch was last kept."""
        return max((path.stat().st_mtime for path in folder.glob("train-*")), default=0)

    for rank in (0, 1):
        before = state()
        with start(reproduced, "dvc", "repro", "train") as running:
            wait_for(lambda before=before: state() > before)
            os.kill(processes_of(reproduced)[rank], signal.SIGKILL)
            told = running.communicate()[0]
        assert running.returncode != 0
        assert f"train: process {rank} of the training was ended by SIGKILL" in told
        assert "Traceback" not in told
        assert not processes_of(reproduced)

    assert "going on after epoch" in reproduced.run("dvc", "repro", "train").stdout
    weights = reproduced.folder / "models/model.safetensors"
    found = sha256(weights)
    reproduced.run("dvc", "repro", "--force", "train")
    assert found == sha256(weights)


@pytest.mark.slow
def test_two_hosts_train_one_network(reproduced: Project, tmp_path: Path) -> None:
    """Here, the hosts are two folders of this one."""
    expected = learn(reproduced, train__launcher="torchrun", train__processes=2)
    reproduced.set(**{"train.processes": 1})
    other = tmp_path / "host"
    subprocess.run(["cp", "-r", reproduced.folder, other], check=True)
    weights = "models/model.safetensors"
    (other / weights).unlink()
    hosts = [
        subprocess.Popen(
            [sys.executable, "stages", "train"],
            cwd=folder,
            env={
                **os.environ,
                "PET_NNODES": "2",
                "PET_NODE_RANK": str(place),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": "29471",
            },
        )
        for place, folder in enumerate((reproduced.folder, other))
    ]
    assert [host.wait(timeout=120) for host in hosts] == [0, 0]
    found = load_file(reproduced.folder / weights)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not (other / weights).exists()
