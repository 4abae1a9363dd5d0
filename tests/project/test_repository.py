"""What the project promises about its own files."""

import configparser
import re
import subprocess
import tomllib
from itertools import chain

from conftest import REPOSITORY


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.splitlines()


def test_the_lock_pins_every_package_by_hash_and_names_no_address() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z0-9][^\n]*", lock, re.MULTILINE)
    assert pins
    assert all(re.match(r"[a-z0-9.-]+==\S+ .*\\$", pin) for pin in pins)
    assert lock.count("--hash=sha256:") >= len(pins)
    assert "://" not in lock
    assert "--index-url" not in lock


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *chain(*project["project"]["optional-dependencies"].values()),
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    lock = (REPOSITORY / "requirements.lock").read_text()
    for requirement in asked:
        name = re.split(r"[\[=><]", requirement)[0]
        if name == "mnist-cnn":  # one extra that asks for another
            continue
        assert f"\n{name}==" in lock, f"run `make lock`: {name} is missing"


def test_no_file_names_a_registrys_address() -> None:
    address = re.compile(rb"(pypi|pythonhosted|npmjs|yarnpkg)\.(org|com)")
    named = [
        name
        for name in tracked()
        if (path := REPOSITORY / name).is_file() and address.search(path.read_bytes())
    ]
    assert named == []


def test_what_the_pipeline_makes_is_not_in_git() -> None:
    kept = [name for name in tracked() if name.startswith(("data/", "models/"))]
    assert kept == ["data/own/README.md"]  # which says what to put there


def test_dvc_sends_no_analytics() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / ".dvc/config")
    assert config.getboolean("core", "analytics") is False
