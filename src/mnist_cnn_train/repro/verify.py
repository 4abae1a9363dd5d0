"""Whether what the pipeline makes is what was committed, to the byte; docs/reproducibility.md.

`python -m mnist_cnn_train.repro.verify` makes it from scratch, elsewhere; with `--here`, what is
here is compared.
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
from mnist_cnn_train.pipeline.paths import ACCURACY, LOCK, RAW_DATA
from mnist_cnn_train.pipeline.processor import this_processor

PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "matplotlib")


def verify() -> str:
    """Run the pipeline of the last commit in a clone, on the CPU, and compare all its outputs.

    Returns:
        A line that says that all are identical.

    Raises:
        MnistCnnError: one differs, or a stage failed.
    """
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        clone = Path(folder) / "clone"
        _git("clone", "--quiet", ".", str(clone))
        if RAW_DATA.is_dir():  # for where no mirror answers; checked by their sums like any other
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


def describe_differences() -> str | None:
    """A line if the results here differ from the committed ones by the processor alone.

    None where code, data or settings differ too, for then the results should.
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
    """The MD5 of each output by its path, in the pipeline's order, that a `dvc.lock` names."""
    return {
        str(path): md5
        for recorded in recorded_outputs(lock).values()
        for path, md5 in recorded.items()
    }


def _inputs(lock: str) -> list[Any]:
    """What a `dvc.lock` says of code, settings and data that come from no stage."""
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
    """Verify, or compare what is here."""
    with exit_on_error("verify"):
        line = describe_differences() if sys.argv[1:] == ["--here"] else verify()
        if line:
            print(line)


if __name__ == "__main__":
    main()
