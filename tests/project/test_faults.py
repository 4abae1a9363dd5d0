"""Faults that strike the pipeline as a whole; docs/reliability.md says what each must not do."""

import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import Project, flipped, start, wait_for_an_epoch

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.imaging.load import load_gray
from mnist_cnn.onnxfile.session import open_model
from mnist_cnn_train.data.idx import read_idx
from mnist_cnn_train.model.networks import DigitCNN
from mnist_cnn_train.model.weights import load_weights
from mnist_cnn_train.training.checkpoint import Checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.fault]

STAGES = ("download", "synthesize", "train", "evaluate", "export")
TRAINING_IMAGES = "data/raw/train-images-idx3-ubyte"
TEST_LABELS = "data/raw/t10k-labels-idx1-ubyte"
WEIGHTS = "models/model.safetensors"

Note = Callable[[str, object], None]


def forget(project: Project, *stages: str) -> None:
    """Have DVC run `stages` anew, where it would else restore what it has of them."""
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)
    with project.edited_lock() as lock:
        for stage in stages:
            lock["stages"].pop(stage, None)


@contextmanager
def recovering(project: Project) -> Iterator[None]:
    """Assert that the block ends with the outputs it began with, and without working files."""
    with project.same_files():
        yield
    kept = [*project.folder.rglob(".*.partial"), *project.folder.glob(".checkpoints/train-*")]
    assert [path for path in kept if ".venv" not in path.parts] == []


def refusal(project: Project, stage: str, *before: str, **options: Any) -> str:
    """What a stage without DVC says on standard error, where it fails."""
    command = (*before, "python", "stages", stage)
    options = {"stderr": subprocess.PIPE, "timeout": 300} | options
    result = project.run(*command, check=False, **options)
    assert result.returncode == 1
    return result.stderr


# About what each takes with DVC.
SECONDS = {"download": 2, "synthesize": 3, "train": 6, "evaluate": 6, "export": 9}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_at_any_moment_recovers(
    stage: str, project: Project, pytestconfig: pytest.Config, record_property: Note
) -> None:
    lock = project.read("dvc.lock")
    kills = pytestconfig.getoption("--kills")
    record_property("faults", kills)
    rng = np.random.default_rng(STAGES.index(stage))
    with recovering(project):
        for kill in range(kills):
            sent = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kill % 3]
            forget(project, stage)
            with start(project, "dvc", "repro", "--single-item", stage) as running:
                try:
                    running.communicate(timeout=rng.uniform(0, SECONDS[stage]))
                except subprocess.TimeoutExpired:
                    os.killpg(running.pid, sent)
                    running.communicate(timeout=60)
        project.run("dvc", "repro")
    assert project.read("dvc.lock") == lock


def test_a_training_that_is_killed_goes_on_after_its_last_whole_epoch(project: Project) -> None:
    forget(project, "train")
    with recovering(project):
        with start(project, "dvc", "repro", "train") as running:
            wait_for_an_epoch(project)
            os.killpg(running.pid, signal.SIGKILL)
        assert "resuming after epoch" in project.run("dvc", "repro").stdout


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        (["dvc", "repro"], signal.SIGINT),
        (["dvc", "repro"], signal.SIGTERM),
        (["dvc", "exp", "run"], signal.SIGTERM),  # DVC runs it on a detached HEAD
    ],
    ids=str,
)
def test_a_training_that_is_ended_early_leaves_the_last_good_model_and_the_branch(
    command: list[str], sent: signal.Signals, project: Project
) -> None:
    project.set(**{"train.epochs": 5_000})
    with project.same_files():
        with start(project, *command) as running:
            wait_for_an_epoch(project)
            os.killpg(running.pid, sent)
            told = running.communicate()[0]
        assert running.returncode != 0
        assert "Traceback" not in told
    assert project.run("git", "branch", "--show-current").stdout == "main\n"


def test_without_packages_a_stage_leaves_the_good_model(project: Project, tmp_path: Path) -> None:
    """As where another `python` comes first on the path, and DVC is installed elsewhere."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pydantic'] = None\n")
    project.set(**{"train.epochs": 2})
    with project.same_files():
        told = project.refused("env", f"PYTHONPATH={tmp_path}", "python", "-m", "dvc", "repro")
    (line,) = (line for line in told.splitlines() if line.startswith("train: "))
    assert "this Python is not the project's; first run `make setup`" in line


def test_a_training_whose_dvc_is_killed_is_waited_for(project: Project) -> None:
    forget(project, "train")
    with recovering(project), start(project, "dvc", "repro", "train") as running:
        wait_for_an_epoch(project)
        (stage,) = (
            process
            for process in psutil.Process(running.pid).children(recursive=True)
            if process.cmdline()[1:] == ["stages", "train"]
        )
        stage.suspend()
        running.kill()
        running.wait()
        again = start(project, "dvc", "repro")
        assert again.stdout is not None
        told = next(line for line in again.stdout if "waiting" in line)
        assert told == "train: waiting for another run of it in this folder to end\n"
        stage.resume()
        assert again.wait(timeout=120) == 0


def test_two_runs_of_the_pipeline_do_not_harm_each_other(project: Project) -> None:
    forget(project, *STAGES)
    with recovering(project):
        runs = [start(project, "dvc", "repro") for _ in range(2)]
        outputs = [run.communicate(timeout=300)[0] for run in runs]
        assert any(run.returncode == 0 for run in runs), outputs
        for run, output in zip(runs, outputs, strict=True):
            assert "Traceback" not in output
            if run.returncode:
                assert re.search("^ERROR: .*(busy|lock)", output, re.MULTILINE)
        project.run("dvc", "repro")


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_clear_line_and_changes_nothing(stage: str, project: Project) -> None:
    def fill_disk() -> None:
        """No file may grow beyond 300 bytes: what is written fails as on a full disk."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    with project.same_files():
        told = refusal(project, stage, preexec_fn=fill_disk)
    assert re.fullmatch(rf"{stage}: \S+: File too large\n", told)
    assert list(project.folder.rglob(".*.partial")) == []


@pytest.fixture
def lawful() -> list[str]:
    """What to run a command by so that permissions hold, which root otherwise ignores."""
    if os.geteuid():
        return []
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("run as root, and setpriv is not installed")
    return [program, "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.parametrize(
    ("stage", "forbidden", "mode", "named"),
    [
        ("download", "data", 0o555, r"data/\S+"),
        ("train", "models", 0o555, r"models/\S+"),
        ("evaluate", "metrics/plots", 0o555, r"metrics/plots/\S+"),
        ("export", "models", 0o555, r"models/\S+"),
        ("train", TRAINING_IMAGES, 0, TRAINING_IMAGES),
        ("evaluate", WEIGHTS, 0, WEIGHTS),
        ("export", TEST_LABELS, 0, TEST_LABELS),
    ],
)
def test_a_folder_that_may_not_be_written_or_a_file_that_may_not_be_read_is_named(
    stage: str, forbidden: str, mode: int, named: str, project: Project, lawful: list[str]
) -> None:
    path = project.folder / forbidden
    before = path.stat().st_mode
    with project.same_files():
        path.chmod(mode)
        told = refusal(project, stage, *lawful)
        path.chmod(before)
    assert re.fullmatch(f"{stage}: {named}: Permission denied\n", told)


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the content, whatever links and permissions the file has."""
    content, mode = path.read_bytes(), path.stat().st_mode
    path.unlink()
    path.write_bytes(change(content))
    path.chmod(mode)


def flip(content: bytes) -> bytes:
    return flipped(content, len(content) // 2)


def cut(content: bytes) -> bytes:
    return content[:10]


def test_whatever_is_damaged_is_made_anew(project: Project, record_property: Note) -> None:
    lock = (project.folder / "dvc.lock").read_text()
    files = project.files("data", "metrics", "models").items()
    made = [file for name, file in files if "/raw/" in name or f"path: {name}\n" in lock]
    assert len(made) == 6 + 3 + 3 + 8
    record_property("faults", len(made))
    with project.same_files():
        for file in made:
            damage(file, flip)
        project.run("dvc", "repro")


@pytest.mark.parametrize(
    ("stage", "damaged", "change"),
    [
        ("train", TRAINING_IMAGES, flip),
        ("train", "data/raw/train-labels-idx1-ubyte", flip),
        ("evaluate", "data/raw/t10k-images-idx3-ubyte", flip),
        ("export", TEST_LABELS, cut),
        ("evaluate", WEIGHTS, flip),
        ("export", WEIGHTS, cut),
        ("evaluate", "metrics/plots/training.csv", cut),
    ],
)
def test_a_stage_refuses_damaged_input_names_what_mends_it_and_writes_nothing(
    stage: str, damaged: str, change: Callable[[bytes], bytes], project: Project
) -> None:
    damage(project.folder / damaged, change)
    before = project.times()
    told = refusal(project, stage)
    repair = "dvc repro" if damaged.endswith(".csv") else "make repair"
    assert re.fullmatch(rf"{stage}: {damaged} is damaged\b.*; run `{repair}`\n", told)
    assert project.times() == before


def test_a_damaged_cache_is_noticed_and_mended(
    project: Project, environment: Path, record_property: Note
) -> None:
    cached = project.folder.glob(".dvc/cache/files/md5/*/*")
    files = [file for file in cached if file.is_file() and file.suffix != ".dir"]
    assert len(files) >= 8  # four of MNIST and their description, and three of a network
    record_property("faults", len(files))
    with project.same_files():
        for file in files:
            damage(file, flip)
        for folder in ("data/raw", "data/synthetic", "models"):
            shutil.rmtree(project.folder / folder)
        project.run("dvc", "checkout")  # trusts its cache
        for stage in STAGES[1:]:
            assert re.search("is damaged[:;] .*run `make repair`", refusal(project, stage))
        assert "models/mnist_cnn.onnx is damaged: " in project.refused(
            "mnist-cnn", "info", "models/mnist_cnn.onnx"
        )
        (project.folder / ".venv").symlink_to(environment)
        project.run("make", "repair")
    assert project.run("dvc", "status").stdout.startswith("Data and pipelines are up to date")


# Of what the settings refuse by themselves, one: test_params.py has all of them.
BAD_SETTINGS = {
    "negative": ("learning_rate: 0.1", "learning_rate: -1", "  train.learning_rate: -1; input"),
    "of a device": ("device: auto", "device: mps", "train: train.device is mps, but this"),
    "misspelt": ("  epochs:", "  epoch:", "  train.epoch: 3; unknown key, do you mean"),
    "missing": ("\ntrain:", "\ntraining:", "ERROR: .*Could not find 'train"),
    "no YAML": ("\ntrain:", "\ntrain: [", "ERROR: .*params.yaml"),
    "twice": ("  momentum:", "  epochs: 3\n  momentum:", "ERROR: .*params.yaml"),
}


@pytest.mark.parametrize(("old", "new", "told"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings_are_refused_and_the_last_good_models_stay(
    old: str, new: str, told: str, project: Project
) -> None:
    if "mps" in new and torch.backends.mps.is_available():
        pytest.skip("this machine has the device that is asked for")
    project.edit("params.yaml", old, new)
    with project.same_files("data", "models"):
        output = project.refused("dvc", "repro")
    assert re.search(f"^{told}", output, re.MULTILINE), output


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.target), "w")


READERS: list[Callable[[Path], object]] = [
    lambda path: load_weights(DigitCNN(), path),
    lambda path: Checkpoint(path).load(),
    open_model,
    read_idx,
    load_gray,
]


@pytest.mark.parametrize("save", [pickle.dump, torch.save])
def test_no_file_runs_code_when_it_is_read(
    save: Callable[..., None], tmp_path: Path, record_property: Note
) -> None:
    target, hostile = tmp_path / "executed", tmp_path / "file"
    with hostile.open("wb") as file:
        save(Payload(target), file)
    record_property("faults", len(READERS))
    for read in READERS:
        with suppress(MnistCnnError):
            assert read(hostile) is None  # a damaged checkpoint counts as none
    assert not target.exists()
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.exists()  # the payload does what it should not
