from pathlib import Path

import pytest
from conftest import REPOSITORY

from mnist_cnn_train.pipeline.outputs import recorded_outputs, restore_outputs

LOCK = """schema: '2.0'
stages:
  first:
    cmd: python stages first
    deps:
    - path: one
      hash: md5
      md5: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
      size: 3
    outs:
    - path: models/a.bin
      hash: md5
      md5: 11111111111111111111111111111111
      size: 4
    - path: metrics/b.json
      hash: md5
      md5: 22222222222222222222222222222222
      size: 2
  second:
    cmd: python stages second
    outs:
    - path: c
      hash: md5
      md5: 33333333333333333333333333333333
      size: 1
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of DVC's, in the current folder, where there is no `dvc`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "dvc.lock").write_text(LOCK)
    return tmp_path / ".dvc/cache/files/md5"


def put(cache: Path, digit: str, content: str) -> None:
    file = cache / (2 * digit) / (30 * digit)
    file.parent.mkdir(parents=True)
    file.write_text(content)
    file.chmod(0o444)


def test_all_outputs_of_a_stage_are_put_back_and_may_be_written(
    cache: Path, tmp_path: Path
) -> None:
    put(cache, "1", "model")
    put(cache, "2", "{}")
    restore_outputs("first")
    assert (tmp_path / "models/a.bin").read_text() == "model"
    assert (tmp_path / "metrics/b.json").read_text() == "{}"
    (tmp_path / "models/a.bin").write_text("another")


def test_where_one_is_not_cached_none_is_put_back(cache: Path, tmp_path: Path) -> None:
    put(cache, "1", "model")
    restore_outputs("first")
    assert not (tmp_path / "models").exists()


def test_a_stage_that_never_ran_has_nothing_to_put_back(cache: Path, tmp_path: Path) -> None:
    restore_outputs("third")
    (tmp_path / "dvc.lock").unlink()
    restore_outputs("first")
    assert not (tmp_path / "models").exists()


def test_the_projects_own_lock_is_read() -> None:
    recorded = recorded_outputs((REPOSITORY / "dvc.lock").read_text())
    assert sum(map(len, recorded.values())) == 16
    assert Path("models/model.safetensors") in recorded["train"]
