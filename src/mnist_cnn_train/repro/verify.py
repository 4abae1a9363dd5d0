"""Verify that the pipeline reproduces the committed results to the byte.

`python -m mnist_cnn_train.repro.verify` runs it from scratch in a clone; with `--here`, it
summarizes the results in this folder, and compares them. See docs/reproducibility.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mnist_cnn.core.errors import MnistCnnError, exit_on_error, one_line
from mnist_cnn.core.files import read_json
from mnist_cnn_train.experiments.paths import SEEDS
from mnist_cnn_train.pipeline.outputs import recorded_outputs
from mnist_cnn_train.pipeline.params import parse_yaml
from mnist_cnn_train.pipeline.paths import (
    ACCURACY,
    CURVES,
    LOCK,
    MISCLASSIFIED,
    ONNX_MODEL,
    RAW_DATA,
    RELIABILITY,
)
from mnist_cnn_train.pipeline.processor import this_processor

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "matplotlib")


def verify() -> str:
    """Run the pipeline of the last commit in a clone, on the CPU, and compare all its outputs.

    Returns:
        A message that all outputs are identical.

    Raises:
        MnistCnnError: if an output differs, or a stage failed.
    """
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        clone = Path(folder) / "clone"
        _git("clone", "--quiet", ".", str(clone))
        if RAW_DATA.is_dir():  # in case no mirror answers; verified by checksum like any source
            (clone / "data/offline").symlink_to(RAW_DATA.resolve())
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-P", "-m", "mnist_cnn_train.repro.dvc_command", "repro"]
        ended = subprocess.run(command, cwd=clone, env=environment, check=False)  # noqa: S603
        if ended.returncode:
            raise MnistCnnError("the pipeline of the last commit fails; its message is above")
        committed, found = _committed(LOCK), (clone / LOCK).read_text()
    expected, made = outputs(committed), outputs(found)
    different = [path for path, md5 in expected.items() if made.get(path) != md5]
    if different:
        packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        raise MnistCnnError(
            f"{different[0]} is the first of {len(different)} files that differ from the "
            f"committed ones; this is {this_processor()}, with {packages}"
        )
    return f"identical to the committed results: all {len(expected)} files, on {this_processor()}"


def summarize() -> str:
    """Return the accuracy of the results in this folder, where to look, and what to do next."""
    found = read_json(ACCURACY)
    names = ("accuracy", "accuracy_95_low", "accuracy_95_high")
    accuracy, low, high = (100 * found[name] for name in names)
    plots = ", ".join(path.name for path in (CURVES, RELIABILITY, MISCLASSIFIED))
    return (
        f"accuracy: {accuracy:.2f} % on {found['images']:,} test images "
        f"(95 % CI {low:.2f}–{high:.2f} %)\n"
        f"plots:    {plots} in {CURVES.parent}\n"
        f"next:     .venv/bin/mnist-cnn demo --model {ONNX_MODEL}, to draw digits for it"
    )


def describe_differences() -> str | None:
    """Return a message if the results here differ from the committed ones only by the processor.

    None if they do not, or if code, data or settings differ, since then results may differ.
    """
    try:
        committed, committed_accuracy = _committed(LOCK), _committed(ACCURACY)
    except MnistCnnError:  # nothing is committed yet
        return None
    here = LOCK.read_text()
    if outputs(here) == outputs(committed) or _inputs(here) != _inputs(committed):
        return None
    found, expected = read_json(ACCURACY)["accuracy"], json.loads(committed_accuracy)["accuracy"]
    spread = read_json(SEEDS)["default"]["accuracy"]["std"]
    return (
        f"These results differ from the committed ones by rounding: accuracy {found:.2%} instead "
        f"of {expected:.2%}, {abs(found - expected) / spread:.1f} times the standard deviation "
        "over seeds. docs/reproducibility.md says which machines give the same bytes."
    )


def outputs(lock: str) -> dict[str, str]:
    """Return the MD5 of each output in a `dvc.lock` by path, in the pipeline's order."""
    return {
        str(path): md5
        for recorded in recorded_outputs(lock).values()
        for path, md5 in recorded.items()
    }


def _inputs(lock: str) -> list[Any]:
    """Return a `dvc.lock`'s commands, settings, and dependencies other than stages' outputs."""
    made = outputs(lock)
    return [
        (
            stage["cmd"],
            stage["params"],
            [dep for dep in stage["deps"] if dep["path"] not in made],
        )
        for stage in parse_yaml(lock, str(LOCK))["stages"].values()
    ]


def _committed(path: Path) -> str:
    return _git("show", f"HEAD:./{path}")


def _git(*command: str) -> str:
    result = subprocess.run(["git", *command], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if result.returncode:
        raise MnistCnnError(one_line(result.stderr))
    return result.stdout


def main() -> None:
    """Run the command line."""
    with exit_on_error("verify"):
        here = sys.argv[1:] == ["--here"]
        for message in (summarize(), describe_differences()) if here else (verify(),):
            if message:
                print(message)


if __name__ == "__main__":
    main()
