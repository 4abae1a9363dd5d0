"""The package as its users install it: a wheel with the model, and nothing of the pipeline."""

import json
import re
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest import REPOSITORY, copy_files, shell
from packaging.requirements import Requirement
from PIL import Image

from mnist_cnn.core.location import DEFAULT_MODEL
from mnist_cnn_train.data.dataset import Dataset

pytestmark = pytest.mark.slow

PLAIN = {"extra": ""}  # of no extra


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_files(tmp_path_factory.mktemp("checkout")).folder


def build(checkout: Path) -> CompletedProcess[str]:
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel")
    return shell(*command, cwd=checkout, check=False)


def needed(names: Iterable[str], found: set[str]) -> set[str]:
    """`found`, the packages `names`, and what they need."""
    for name in {name.lower().replace("_", "-") for name in names} - found:
        found.add(name)
        asked = map(Requirement, requires(name) or [])
        needed((one.name for one in asked if not one.marker or one.marker.evaluate(PLAIN)), found)
    return found


def locked(names: set[str]) -> str:
    """The entries of the lock, with their hashes, of the packages `names`."""
    lock = (REPOSITORY / "requirements.lock").read_text()
    entries = re.findall(r"^[a-z0-9.-]+==(?:.*\\\n)+.*\n", lock, re.MULTILINE)
    return "".join(entry for entry in entries if entry.split("==")[0] in names)


def test_an_installed_wheel_reads_a_digit_without_the_pipelines_packages(
    checkout: Path, holdout_digits: Dataset, tmp_path: Path
) -> None:
    built = build(checkout)
    assert built.returncode == 0, built.stderr
    (wheel,) = (checkout / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        assert content.read("mnist_cnn/reader.onnx") == DEFAULT_MODEL.read_bytes()
        assert "mnist_cnn/py.typed" in content.namelist()
    assert wheel.stat().st_size < 200_000

    venv.create(tmp_path / "venv", with_pip=True)
    python, reader = (tmp_path / "venv/bin" / name for name in ("python", "mnist-cnn"))
    names = [Requirement(one).name for one in requires("mnist-cnn") or [] if "extra ==" not in one]
    (tmp_path / "lock").write_text(locked(needed(names, set())))
    for arguments in (["--require-hashes", "-r", tmp_path / "lock"], ["--no-index", wheel]):
        shell(python, "-m", "pip", "install", "--quiet", *arguments)
    assert "torch" not in shell(python, "-m", "pip", "list").stdout

    for command in ([], ["predict"], ["read"], ["score"], ["demo"], ["info"]):
        shell(reader, *command, "--help")
    refused = shell(reader, "score", tmp_path, tmp_path / "out", check=False)
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert "this needs pyarrow" in line

    picture = tmp_path / "digit.png"
    Image.fromarray(255 - holdout_digits.images[0]).resize((90, 90)).save(picture)
    result = shell(reader, "predict", "--json", picture)
    assert json.loads(result.stdout)["label"] == str(holdout_digits.labels[0])
