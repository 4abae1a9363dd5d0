"""What the pipeline costs around its work: starts, memory, and a run with nothing to do."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image
from ruamel.yaml import YAML

from mnist_cnn_train.data.dataset import read_test_digits
from mnist_cnn_train.pipeline.paths import RAW_DATA

STAGES = ("download", "train", "evaluate", "export")


# A process starts with the peak of the one that it was forked from, so a small one starts it.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)  # kB on Linux
"""


@dataclass(frozen=True)
class Command:
    """Seconds of a command: the median of all rounds, the least and the most."""

    name: str
    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Stage:
    """Seconds of a stage's start and of its whole run, and its peak memory."""

    name: str
    start: float
    seconds: float
    megabytes: float


def measure_commands(rounds: int) -> list[Command]:
    """Seconds of short commands, in turn: a `dvc repro` with nothing to do, and its like."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        empty, small = Path(folder) / "empty", Path(folder) / "small"
        for project in (empty, small):
            project.mkdir()
            _run(["git", "init", "--quiet"], project)
            _run(["dvc", "init", "--quiet"], project)
        (small / "in").write_text("")
        digit = read_test_digits(RAW_DATA).images[0]
        Image.fromarray(255 - digit).resize((300, 300)).save(empty / "one.png")
        _run(["dvc", "stage", "add", "-n", "copy", "-d", "in", "-o", "out", "cp in out"], small)
        _run(["dvc", "repro"], small)
        commands = {
            "`dvc status` in an empty project": (["dvc", "status"], empty),
            "`dvc repro` with nothing to do": (["dvc", "repro"], Path()),
            "the same in a project of one stage": (["dvc", "repro"], small),
            "`mnist-cnn predict one.png`": (["mnist-cnn", "predict", "one.png"], empty),
            "`import torch`": ([python, "-c", "import torch"], empty),
            "`import onnxruntime`": ([python, "-c", "import onnxruntime"], empty),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, (command, where) in commands.items():
                seconds, _ = _run(command, where)
                if turn:  # the first warms the disk's cache
                    times[name].append(seconds)
    return [Command(name, median(found), min(found), max(found)) for name, found in times.items()]


def measure_stages() -> list[Stage]:
    """Seconds and peak memory of each stage, in a copy of the project, without DVC."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("src", "stages", "data/raw"):
            shutil.copytree(part, copy / part)
        shutil.copy2("params.yaml", copy)
        (copy / "data/raw").rename(copy / "data/offline")
        yaml = YAML()
        params = yaml.load(copy / "params.yaml")
        params["data"]["sources"] = ["folder:data/offline"]  # the network is not what is timed
        yaml.dump(params, copy / "params.yaml")
        for stage in STAGES:
            script = f"stages/{stage}.py"
            load = f"import runpy; runpy.run_path({script!r}, run_name='loaded')"
            starts = [_run([sys.executable, "-c", load], copy)[0] for _ in range(4)]
            seconds, told = _run([sys.executable, "-c", PEAK, sys.executable, script], copy)
            rows.append(Stage(stage, median(starts[1:]), seconds, int(told.split()[-1]) / 1024))
    return rows


def _run(command: list[str], folder: Path) -> tuple[float, str]:
    """Wall-clock seconds, and what the command prints."""
    environment = {**os.environ, "PYTHONPATH": "src"}
    start = time.perf_counter()
    result = subprocess.run(  # noqa: S603
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if result.returncode:
        raise SystemExit(f"bench: {' '.join(command)} failed:\n{result.stderr}")
    return seconds, result.stdout
