"""What `make setup` says, where it cannot go on."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, copy_files, shell

pytestmark = pytest.mark.slow


def setup(folder: Path) -> str:
    result = shell("make", "--no-print-directory", "setup", cwd=folder, check=False)
    assert result.returncode != 0
    return result.stdout


def test_without_git_nothing_is_installed(tmp_path: Path) -> None:
    """As in a zip that was downloaded."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    told = setup(tmp_path)
    assert told.startswith("make setup: this is no git repository with a commit")
    assert not (tmp_path / ".venv").exists()


def test_a_step_is_a_line_and_one_that_fails_ends_with_what_it_said(tmp_path: Path) -> None:
    project = copy_files(tmp_path)
    lock = tmp_path / "requirements.lock"
    (version,) = re.findall(r"^setuptools==(\S+)", lock.read_text(), re.MULTILINE)
    lock.write_text(f"setuptools=={version} \\\n    --hash=sha256:{64 * '0'}\n")
    project.commit("A lock that nothing matches")
    first, second, *said, last = setup(tmp_path).splitlines()
    assert first.startswith("setup 1/3: ")
    assert second.startswith("setup 2/3: ")
    assert any("HASH" in line.upper() for line in said)
    assert last.startswith("make setup: this step failed; .venv/setup.log has all")
