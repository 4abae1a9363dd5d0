"""The package as its users install it: the reader with its model, and nothing of the pipeline."""

import json
import re
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

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


@pytest.fixture(scope="module")
def built(checkout: Path) -> dict[str, Path]:
    """The wheel, and the source distribution."""
    shell(sys.executable, "-m", "hatchling", "build", "--target", "wheel", cwd=checkout)
    shell(sys.executable, "-m", "hatchling", "build", "--target", "sdist", cwd=checkout)
    return {path.suffix: path for path in (checkout / "dist").iterdir()}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with what the package needs, and what builds it."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    names = [Requirement(one).name for one in requires("mnist-cnn") or [] if "extra ==" not in one]
    (folder / "lock").write_text(locked(needed([*names, "hatchling"], set())))
    install(folder / "bin", "--require-hashes", "-r", folder / "lock")
    return folder / "bin"


def install(programs: Path, *arguments: str | Path) -> None:
    shell(programs / "python", "-m", "pip", "install", "--quiet", *arguments)


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


def test_the_wheel_is_small_and_has_the_model_and_the_types(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built[".whl"]) as content:
        assert content.read("mnist_cnn/reader.onnx") == DEFAULT_MODEL.read_bytes()
        assert "mnist_cnn/py.typed" in content.namelist()
    assert built[".whl"].stat().st_size < 200_000


@pytest.mark.parametrize("form", [".whl", ".gz"])
def test_what_is_installed_reads_a_digit_without_the_pipelines_packages(
    form: str, built: dict[str, Path], fresh: Path, holdout_digits: Dataset, tmp_path: Path
) -> None:
    offline = ("--no-index", "--no-build-isolation", "--force-reinstall", "--no-deps")
    install(fresh, *offline, built[form])
    assert "torch" not in shell(fresh / "python", "-m", "pip", "list").stdout

    reader = fresh / "mnist-cnn"
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
