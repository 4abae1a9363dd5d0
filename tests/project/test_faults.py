"""Faults that strike the pipeline as a whole; docs/reliability.md says what each must not do."""

import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import Project, flipped, start, wait_for_an_epoch
from ruamel.yaml import YAML

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.imaging.load import load_gray
from mnist_cnn.onnxfile.session import open_model
from mnist_cnn_train.data.idx import read_idx
from mnist_cnn_train.model.networks import DigitCNN
from mnist_cnn_train.model.weights import load_weights
from mnist_cnn_train.training.checkpoint import Checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.fault]

STAGES = ("download", "train", "evaluate", "export")
MADE = ("data", "metrics", "models")

Note = Callable[[str, object], None]


@pytest.fixture
def project(pristine: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of a small project, for a test that may ruin it."""
    copy = Project(tmp_path / "project")
    shutil.copytree(pristine.folder, copy.folder, symlinks=True)
    yield copy
    shutil.rmtree(copy.folder)


def forget(project: Project, *stages: str) -> None:
    """Have DVC run `stages` anew, where it would else restore what it has of them."""
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)
    yaml, path = YAML(), project.folder / "dvc.lock"
    lock = yaml.load(path)
    for stage in stages:
        lock["stages"].pop(stage, None)
    yaml.dump(lock, path)


def locked(project: Project) -> object:
    return YAML(typ="safe").load(project.folder / "dvc.lock")


def remnants(project: Project) -> list[Path]:
    """What a stage leaves while it runs."""
    kept = [*project.folder.rglob(".*.partial"), *project.folder.glob(".checkpoints/train-*")]
    return [path for path in kept if ".venv" not in path.parts]


def run_stage(project: Project, stage: str, *before: str, **options: Any) -> tuple[int, str]:
    """Exit code and standard error of a stage without DVC."""
    result = subprocess.run(
        [*before, sys.executable, "stages", stage],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    return result.returncode, result.stderr


# Interrupted work


# About what each takes with DVC.
SECONDS = {"download": 2, "train": 6, "evaluate": 6, "export": 9}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_killed_at_any_moment_recovers(
    stage: str, project: Project, request: pytest.FixtureRequest, record_property: Note
) -> None:
    before, lock = project.hashes(*MADE), locked(project)
    command = ("dvc", "repro", "--single-item", stage)
    kills = request.config.getoption("--kills")
    record_property("faults", kills)
    rng = np.random.default_rng(STAGES.index(stage))
    for kill in range(kills):
        sent = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kill % 3]
        forget(project, stage)
        with start(project, *command) as running:
            try:
                running.communicate(timeout=rng.uniform(0, SECONDS[stage]))
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, sent)
                running.communicate(timeout=60)
    project.run("dvc", "repro")
    assert project.hashes(*MADE) == before
    assert locked(project) == lock
    assert remnants(project) == []


def test_a_training_that_is_killed_goes_on_after_its_last_whole_epoch(project: Project) -> None:
    before = project.hashes(*MADE)
    forget(project, "train")
    with start(project, "dvc", "repro", "train") as running:
        wait_for_an_epoch(project)
        os.killpg(running.pid, signal.SIGKILL)
    assert "going on after epoch" in project.run("dvc", "repro").stdout
    assert project.hashes(*MADE) == before
    assert remnants(project) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_ended_early_leaves_the_last_good_model(
    sent: signal.Signals, project: Project
) -> None:
    before = project.hashes(*MADE)
    project.set(**{"train.epochs": 5_000})
    with start(project, "dvc", "repro") as running:
        wait_for_an_epoch(project)
        os.killpg(running.pid, sent)
        told = running.communicate()[0]
    assert running.returncode != 0
    assert "Traceback" not in told
    assert project.hashes(*MADE) == before


def test_without_its_packages_a_stage_says_so_and_leaves_the_last_good_model(
    project: Project, tmp_path: Path
) -> None:
    """As where another `python` comes first on the path, and DVC is installed elsewhere."""
    before = project.hashes(*MADE)
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pydantic'] = None\n")
    project.set(**{"train.epochs": 2})
    result = project.run(
        *("env", f"PYTHONPATH={tmp_path}", sys.executable, "-m", "dvc", "repro"), check=False
    )
    assert result.returncode != 0
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("train: "))
    assert "this Python is not the project's; first run `make setup`" in line
    assert project.hashes(*MADE) == before


def test_a_training_whose_dvc_is_killed_is_waited_for(project: Project) -> None:
    before = project.hashes(*MADE)
    forget(project, "train")
    with start(project, "dvc", "repro", "train") as running:
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
    assert project.hashes(*MADE) == before
    assert remnants(project) == []


# Two runs at once


def test_two_runs_of_the_pipeline_do_not_harm_each_other(project: Project) -> None:
    before = project.hashes(*MADE)
    forget(project, *STAGES)
    runs = [start(project, "dvc", "repro") for _ in range(2)]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert any(run.returncode == 0 for run in runs), outputs
    for run, output in zip(runs, outputs, strict=True):
        assert "Traceback" not in output
        if run.returncode:
            assert re.search("^ERROR: .*(busy|lock)", output, re.MULTILINE)
    project.run("dvc", "repro")
    assert project.hashes(*MADE) == before
    assert remnants(project) == []


def test_two_runs_of_a_stage_take_turns(project: Project) -> None:
    before = project.hashes(*MADE)
    runs = [start(project, "python", "stages", "train") for _ in range(2)]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum("train: waiting for another run" in output for output in outputs) == 1
    assert project.hashes(*MADE) == before
    assert remnants(project) == []


# A disk that is full, and folders that may not be used


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_clear_line_and_leaves_what_there_was(
    stage: str, project: Project
) -> None:
    before = project.hashes(*MADE)
    # No file may grow beyond: what is written fails as on a full disk.
    limit = 300
    code, told = run_stage(
        project, stage, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert code == 1
    assert re.fullmatch(rf"{stage}: \S+: File too large\n", told)
    assert project.hashes(*MADE) == before
    assert list(project.folder.rglob(".*.partial")) == []


def lawful() -> list[str]:
    """What to run a command by so that permissions hold, which root otherwise ignores."""
    if os.geteuid():
        return []
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("run as root, and setpriv is not installed")
    return [program, "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.parametrize(
    ("stage", "forbidden"),
    [
        ("download", "data"),
        ("train", "models"),
        ("evaluate", "metrics/plots"),
        ("export", "models"),
    ],
)
def test_a_folder_that_may_not_be_written_is_named(
    stage: str, forbidden: str, project: Project
) -> None:
    before = project.hashes(*MADE)
    (project.folder / forbidden).chmod(0o555)
    code, told = run_stage(project, stage, *lawful())
    (project.folder / forbidden).chmod(0o755)
    assert code == 1
    assert re.fullmatch(rf"{stage}: {forbidden}/\S+: Permission denied\n", told)
    assert project.hashes(*MADE) == before


@pytest.mark.parametrize(
    ("stage", "forbidden"),
    [
        ("train", "data/raw/train-images-idx3-ubyte"),
        ("evaluate", "models/model.safetensors"),
        ("export", "data/raw/t10k-labels-idx1-ubyte"),
    ],
)
def test_a_file_that_may_not_be_read_is_named(stage: str, forbidden: str, project: Project) -> None:
    before = project.hashes(*MADE)
    mode = (project.folder / forbidden).stat().st_mode
    (project.folder / forbidden).chmod(0)
    code, told = run_stage(project, stage, *lawful())
    (project.folder / forbidden).chmod(mode)
    assert (code, told) == (1, f"{stage}: {forbidden}: Permission denied\n")
    assert project.hashes(*MADE) == before


# Damage


def damage(path: Path) -> None:
    """Flip a bit in the middle, whatever links and permissions the file has."""
    content, mode = path.read_bytes(), path.stat().st_mode
    path.unlink()
    path.write_bytes(flipped(content, len(content) // 2))
    path.chmod(mode)


def made_by_the_pipeline(name: str, lock: str) -> bool:
    return name.startswith("data/raw/") or f"path: {name}\n" in lock


def test_whatever_is_damaged_is_made_anew(project: Project, record_property: Note) -> None:
    before = project.hashes(*MADE)
    lock = (project.folder / "dvc.lock").read_text()
    before = {name: found for name, found in before.items() if made_by_the_pipeline(name, lock)}
    assert len(before) == 5 + 3 + 8
    record_property("faults", len(before))
    for name in before:
        damage(project.folder / name)
    project.run("dvc", "repro")
    assert before.items() <= project.hashes(*MADE).items()


@pytest.mark.parametrize(
    ("stage", "damaged"),
    [
        ("train", "data/raw/train-images-idx3-ubyte"),
        ("train", "data/raw/train-labels-idx1-ubyte"),
        ("evaluate", "data/raw/t10k-images-idx3-ubyte"),
        ("export", "data/raw/t10k-labels-idx1-ubyte"),
        ("evaluate", "models/model.safetensors"),
        ("export", "models/model.safetensors"),
    ],
)
def test_a_stage_refuses_damaged_input_and_names_what_mends_it(
    stage: str, damaged: str, project: Project
) -> None:
    damage(project.folder / damaged)
    before = project.hashes(*MADE)
    code, told = run_stage(project, stage)
    assert code == 1
    assert re.fullmatch(rf"{stage}: {damaged} is damaged: .*; run `make mend`\n", told)
    assert project.hashes(*MADE) == before


def test_a_damaged_cache_is_noticed_and_mended(project: Project, record_property: Note) -> None:
    lock = project.run("git", "hash-object", "requirements.lock").stdout.strip()
    if not Path(sys.prefix, f".ready-{lock}").is_file():
        pytest.skip("this environment was not made by `make setup` from the current lock")
    before = project.hashes(*MADE)
    cached = [file for file in project.folder.glob(".dvc/cache/files/md5/*/*") if file.is_file()]
    files = [file for file in cached if file.suffix != ".dir"]
    assert len(files) >= 8  # four of MNIST and their description, and three of a network
    record_property("faults", len(files))
    for file in files:
        damage(file)
    for folder in ("data/raw", "models"):
        shutil.rmtree(project.folder / folder)
    project.run("dvc", "checkout")  # trusts its cache
    for stage in STAGES[1:]:
        code, told = run_stage(project, stage)
        assert code == 1
        assert re.search("is damaged[:;] .*run `make mend`", told)
    prediction = project.run("mnist-cnn", "info", check=False)
    assert prediction.returncode == 1
    assert "models/mnist_cnn.onnx is damaged: " in prediction.stdout
    (project.folder / ".venv").symlink_to(sys.prefix)
    project.run("make", "mend")
    assert project.hashes(*MADE) == before
    assert project.run("dvc", "status").stdout.startswith("Data and pipelines are up to date")


# Settings


def edit(**settings: Any) -> Callable[[Project], None]:
    return lambda project: project.set(**settings)


def rewrite(old: str, new: str) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        path = project.folder / "params.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new) if old else new)

    return change


# Of what the settings refuse by themselves, one: test_params.py has all of them.
BAD_SETTINGS: dict[str, tuple[Callable[[Project], None], str]] = {
    "negative": (edit(**{"train.learning_rate": -1}), "  train.learning_rate: -1; input should"),
    "of a device": (edit(**{"train.device": "mps"}), "train: train.device is mps, but this"),
    "misspelt": (rewrite("  epochs:", "  epoch:"), "  train.epoch: 3; unknown key, do you mean"),
    "missing": (rewrite("\ntrain:", "\ntraining:"), "ERROR: .*Could not find 'train"),
    "none at all": (rewrite("", ""), "ERROR: .*Could not find 'train"),
    "no YAML": (rewrite("\ntrain:", "\ntrain: ["), "ERROR: .*params.yaml"),
    "twice": (rewrite("  momentum:", "  epochs: 3\n  momentum:"), "ERROR: .*params.yaml"),
}


@pytest.mark.parametrize("kind", BAD_SETTINGS)
def test_bad_settings_are_refused_and_the_last_good_models_stay(
    kind: str, project: Project
) -> None:
    if kind == "of a device" and torch.backends.mps.is_available():
        pytest.skip("this machine has the device that is asked for")
    before = project.hashes("data", "models")
    change, told = BAD_SETTINGS[kind]
    change(project)
    result = project.run("dvc", "repro", check=False)
    assert result.returncode != 0
    assert re.search(rf"^{told}", result.stdout, re.MULTILINE), result.stdout
    assert "Traceback" not in result.stdout
    assert project.hashes("data", "models") == before


# Files that would run code


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.target), "w")


def test_no_file_runs_code_when_it_is_read(tmp_path: Path, record_property: Note) -> None:
    target, hostile = tmp_path / "executed", tmp_path / "file"
    pickled = pickle.dumps(Payload(target))
    torch.save(Payload(target), tmp_path / "saved")
    readers: list[Callable[[Path], object]] = [
        lambda path: load_weights(DigitCNN(), path),
        lambda path: Checkpoint(path).load(),
        open_model,
        read_idx,
        load_gray,
    ]
    contents = (pickled, (tmp_path / "saved").read_bytes())
    record_property("faults", len(contents) * len(readers))
    for content in contents:
        hostile.write_bytes(content)
        for read in readers:
            with suppress(MnistCnnError):
                assert read(hostile) is None  # a damaged checkpoint counts as none
    assert not target.exists()
    pickle.loads(pickled)
    assert target.exists()  # the payload does what it should not
