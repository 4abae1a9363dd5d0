"""What the project promises about its own files."""

import configparser
import re
import tomllib
from itertools import chain

from conftest import REPOSITORY, tracked
from packaging.requirements import Requirement

LOCK = (REPOSITORY / "requirements.lock").read_text()


def test_the_lock_pins_every_package_by_hash_and_names_no_address() -> None:
    pins = re.findall(r"^[a-z0-9].*", LOCK, re.MULTILINE)
    assert pins
    assert all(re.match(r"[a-z0-9.-]+==\S+ .*\\$", pin) for pin in pins)
    assert LOCK.count("--hash=sha256:") >= len(pins)
    assert "://" not in LOCK
    assert "--index-url" not in LOCK


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *chain(*project["project"]["optional-dependencies"].values()),
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    names = {Requirement(one).name for one in asked} - {"mnist-cnn"}  # asked for by an extra
    missing = [name for name in names if f"\n{name}==" not in LOCK]
    assert missing == [], "run `make lock`"


def test_no_file_names_a_registrys_address() -> None:
    address = re.compile(rb"(pypi|pythonhosted|npmjs|yarnpkg)\.(org|com)")
    named = [name for name in tracked() if address.search((REPOSITORY / name).read_bytes())]
    assert named == []


def test_what_the_pipeline_makes_is_not_in_git() -> None:
    assert tracked("data", "models") == ["data/own/README.md"]  # which says what to put there


def test_dvc_sends_no_analytics() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / ".dvc/config")
    assert config.getboolean("core", "analytics") is False
