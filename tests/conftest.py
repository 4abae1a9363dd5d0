"""What several test modules share: the real MNIST files, and small copies of the project."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import hypothesis

from mnist_cnn_train.pipeline.processor import cap

cap()  # before what computes is imported: a training in a test is one of the pipeline's

import numpy as np
import pytest
from ours import speed
from PIL import Image, ImageDraw, ImageFont
from ruamel.yaml import YAML

from mnist_cnn.core.files import sha256
from mnist_cnn.demo.server import DemoServer, make_server
from mnist_cnn.imaging.box import Box
from mnist_cnn.onnxfile.checksum import add_checksum
from mnist_cnn.onnxfile.contract import CHECKSUM_KEY
from mnist_cnn.onnxfile.session import open_model
from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.catalog import SHA256
from mnist_cnn_train.data.dataset import Dataset, read_test_digits, read_training_digits
from mnist_cnn_train.data.split import load_split, stratified_split
from mnist_cnn_train.download.sources import download
from mnist_cnn_train.export.graph import describe, export_onnx
from mnist_cnn_train.export.thresholds import (
    holdout_split,
    preprocess_images,
    set_thresholds,
    threshold_split,
)
from mnist_cnn_train.pipeline.params import Params, changed, load_params
from mnist_cnn_train.training.loop import train

REPOSITORY = Path(__file__).parents[1]

# A test that draws its input draws a hundred times as much by `make fuzz`.
hypothesis.settings.register_profile("short", deadline=None, max_examples=100)
hypothesis.settings.register_profile("long", deadline=None, max_examples=10_000)
hypothesis.settings.load_profile("short")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=3, help="how often each stage is killed at a random moment"
    )
    parser.addoption("--golden", action="store_true", help="write what this processor gives")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "pristine" in getattr(item, "fixturenames", ()):  # runs dvc
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Count the faults; a test that causes several notes how many as the property `faults`."""
    counts: Counter[str] = Counter()
    not_tried = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if "fault" in getattr(report, "keywords", ()):
                counts[outcome] += dict(report.user_properties).get("faults", 1)
                if outcome in ("error", "skipped") and report.when == "setup":
                    not_tried.append(f"not tried: {report.nodeid}")
    survived, tried = counts["passed"], counts["passed"] + counts["failed"]
    if tried or not_tried:
        terminalreporter.write_line(f"faults: {tried:,} tried, {survived:,} survived")
    for line in not_tried:
        terminalreporter.write_line(line)


def hear_ctrl_c() -> None:
    """Ctrl-C is ignored by what a shell has put into the background, and by its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def flipped(content: bytes, place: int) -> bytes:
    """`content` with one bit changed at `place`."""
    damaged = bytearray(content)
    damaged[place] ^= 1
    return bytes(damaged)


@pytest.fixture(scope="session")
def raw_data(request: pytest.FixtureRequest) -> Path:
    """A folder with the four real MNIST files: the pipeline's own where it ran, else fetched."""
    cached = Path(request.config.cache.mkdir("mnist")) / "raw"
    for folder in (REPOSITORY / "data/raw", cached):
        files = [folder / name for name in SHA256]
        if all(file.is_file() and sha256(file) == SHA256[file.name] for file in files):
            return folder
    download(load_params(REPOSITORY / "params.yaml").data.sources, cached)
    return cached


@pytest.fixture(scope="session")
def params() -> Params:
    return load_params(REPOSITORY / "params.yaml")


@pytest.fixture(scope="session")
def small_digits(raw_data: Path) -> tuple[Dataset, Dataset]:
    """2,000 real digits to train on, and 500 to validate with."""
    return stratified_split(read_training_digits(raw_data), 2_000, 500, seed=0)


@pytest.fixture(scope="session")
def test_digits(raw_data: Path) -> Dataset:
    return read_test_digits(raw_data)


@pytest.fixture(scope="session")
def trained_model(raw_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that reads well: the pipeline's own where it ran, else by the recipe `speed`."""
    made = REPOSITORY / "models/mnist_cnn.onnx"
    if made.is_file() and CHECKSUM_KEY in open_model(made).get_modelmeta().custom_metadata_map:
        return made
    params = speed(seed=0, threads=2)
    training, validation = load_split(raw_data, params.data.split)
    network = train(training, None, params.model, params.train).network
    model = export_onnx(network, describe(network, "0" * 64, 0.5))
    set_thresholds(
        model, preprocess_images(threshold_split(validation)), params.export.max_false_alarm_rate
    )
    path = tmp_path_factory.mktemp("trained") / made.name
    path.write_bytes(add_checksum(model))
    return path


@pytest.fixture(scope="session")
def recognizer(trained_model: Path) -> Recognizer:
    return Recognizer(trained_model)


@pytest.fixture
def demo_server(recognizer: Recognizer) -> Iterator[DemoServer]:
    with make_server(recognizer, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def holdout_digits(raw_data: Path, params: Params) -> Dataset:
    """The 1,000 validation images by which the reader of pictures is judged."""
    _, validation = load_split(raw_data, params.data.split)
    return holdout_split(validation)


def shell(*command: str | Path, check: bool = True, **options: Any) -> CompletedProcess[str]:
    options = {"cwd": REPOSITORY, "capture_output": True, "text": True} | options
    return subprocess.run(command, check=check, **options)


def tracked(*patterns: str) -> list[str]:
    """The files that git would commit; those that were deleted may still be listed by it."""
    listed = shell("git", "ls-files", "-z", "-co", "--exclude-standard", "--", *patterns).stdout
    return [name for name in listed.split("\0") if (REPOSITORY / name).is_file()]


@pytest.fixture
def environment() -> Path:
    """The folder with the packages, where `make setup` installed them."""
    lock = shell("git", "hash-object", "requirements.lock").stdout.strip()
    if not Path(sys.prefix, f".ready-{lock}").is_file():
        pytest.skip("this environment was not made by `make setup` from the current lock")
    return Path(sys.prefix)


ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "400",  # else dvc cuts its tables
    # For commits, also those of DVC's experiments, where the machine has no git identity.
    **{f"GIT_{role}_NAME": "Tester" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "tester@localhost" for role in ("AUTHOR", "COMMITTER")},
}
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
MADE = ("data", "metrics", "models")


@dataclass(frozen=True)
class Project:
    """A copy of the project, in a folder and a git repository of its own."""

    folder: Path

    def run(self, *command: str, check: bool = True, **options: Any) -> CompletedProcess[str]:
        options = {**PIPES, "stdin": subprocess.DEVNULL, "env": ENVIRONMENT} | options
        result = subprocess.run(command, cwd=self.folder, check=False, **options)
        assert not check or result.returncode == 0, f"{' '.join(command)}:\n{result.stdout}"
        return result

    def refused(self, *command: str) -> str:
        """What a command says that fails, which should be no traceback."""
        result = self.run(*command, check=False)
        assert result.returncode > 0
        assert "Traceback" not in result.stdout
        return result.stdout

    def clone(self, folder: Path) -> "Project":
        self.run("git", "clone", "--quiet", ".", str(folder))
        return Project(folder)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def repro(self) -> list[str]:
        """Run `dvc repro`; the stages that ran, in order."""
        return re.findall(r"Running stage '(\w+)'", self.run("dvc", "repro").stdout)

    def set(self, **settings: Any) -> None:
        """Change settings of params.yaml, named by their dotted keys."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        yaml.dump(changed(yaml.load(path), settings), path)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def read(self, name: str) -> Any:
        """The content of a file in YAML or JSON."""
        return YAML(typ="safe").load(self.folder / name)

    @contextmanager
    def edited_lock(self) -> Iterator[Any]:
        yaml, path = YAML(), self.folder / "dvc.lock"
        lock = yaml.load(path)
        yield lock
        yaml.dump(lock, path)

    def files(self, *folders: str) -> dict[str, Path]:
        """The files in `folders`, or in all that the pipeline writes to, by their names."""
        found = (file for folder in folders or MADE for file in (self.folder / folder).rglob("*"))
        files = [file for file in sorted(found) if file.is_file() and file.name != ".gitignore"]
        return {file.relative_to(self.folder).as_posix(): file for file in files}

    def hashes(self, *folders: str) -> dict[str, str]:
        return {name: sha256(file) for name, file in self.files(*folders).items()}

    def times(self) -> dict[str, int]:
        """When each file was written, which also shows one that is written anew as it was."""
        return {name: file.stat().st_mtime_ns for name, file in self.files().items()}

    @contextmanager
    def same_files(self, *folders: str) -> Iterator[None]:
        """Assert that the files after the block are those before it."""
        before = self.hashes(*folders)
        yield
        assert self.hashes(*folders) == before


def start(project: Project, *command: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, as a terminal does."""
    options = {**PIPES, "env": ENVIRONMENT, "preexec_fn": hear_ctrl_c}
    return subprocess.Popen(command, cwd=project.folder, start_new_session=True, **options)


def wait_for_an_epoch(project: Project) -> None:
    deadline = time.monotonic() + 120
    while not list(project.folder.glob(".checkpoints/train-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def copy_files(folder: Path) -> Project:
    """Copy what git would commit, into a repository of its own."""
    for name in tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, target)
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    return project


# Three epochs, within a second.
SMALL = {
    "data.dataset": "folder",
    "synthesize.form_digits": 20,
    "data.split.train_images": 300,
    "data.split.validation_images": 100,
    "train.epochs": 3,
    "train.unaugmented_epochs": 0,
    "train.batch_size": 20,
    "train.ema_decay": 0.9,
    "export.max_int8_accuracy_drop": 0.1,
    "evaluate.min_accuracy": 0.3,
}


@pytest.fixture(scope="session")
def pristine(
    tmp_path_factory: pytest.TempPathFactory, small_digits: tuple[Dataset, Dataset]
) -> Project:
    """A small project after its first `dvc repro`, which one of the workers runs for all.

    Its pictures are 500 digits, which git has too.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pristine"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            project = copy_files(tmp_path_factory.mktemp("project"))
            few = small_digits[0].take(np.arange(0, 2_000, 4))
            for number, (image, label) in enumerate(zip(few.images, few.labels, strict=True)):
                picture = project.folder / f"data/own/{label}/{number}.png"
                picture.parent.mkdir(exist_ok=True)
                Image.fromarray(image).save(picture)
            with (project.folder / ".gitignore").open("a") as ignored:
                ignored.write("!/data/own/**\n")
            project.set(**SMALL)
            project.commit("A small copy")
            assert project.repro() == ["download", "synthesize", "train", "evaluate", "export"]
            project.commit("Reproduced")
            project.folder.rename(made)
    own = tmp_path_factory.mktemp("projects") / "pristine"
    shutil.copytree(made, own, symlinks=True)
    return Project(own)


@pytest.fixture
def reproduced(pristine: Project) -> Iterator[Project]:
    """The `pristine` project, put back to what it was after the test, however that ends."""
    before = pristine.hashes("data/raw", "models")
    yield pristine
    pristine.run("git", "checkout", "--quiet", ".")
    pristine.run("git", "clean", "--quiet", "-d", "--force")
    if pristine.hashes("data/raw", "models") != before:
        pristine.run("dvc", "checkout", "--quiet", "--force")
    shutil.rmtree(pristine.folder / "dvc_plots", ignore_errors=True)


@pytest.fixture
def project(pristine: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the `pristine` project, for a test that may ruin it."""
    copy = Project(tmp_path / "project")
    shutil.copytree(pristine.folder, copy.folder, symlinks=True)
    yield copy
    shutil.rmtree(copy.folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def page(rows: list[str], size: int = 60) -> tuple[Image.Image, list[list[Box]]]:
    """Rows of digits, each a little higher or lower than the last, and their boxes."""
    image = Image.new("L", (80 + 70 * max(map(len, rows)), 60 + 120 * len(rows)), 245)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    boxes = []
    for row, text in enumerate(rows):
        boxes.append([])
        for column, digit in enumerate(text):
            place = (40 + 70 * column, 40 + 120 * row + 12 * (column % 2))
            draw.text(place, digit, fill=40, font=font)
            alone = Image.new("L", image.size)
            ImageDraw.Draw(alone).text(place, digit, fill=255, font=font)
            boxes[-1].append(Box(*(alone.getbbox() or ())))
    return image, boxes
