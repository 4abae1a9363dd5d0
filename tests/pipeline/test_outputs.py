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
    outs:
    - path: models/a.bin
      hash: md5
      md5: 11111111111111111111111111111111
    - path: metrics/b.json
      hash: md5
      md5: 22222222222222222222222222222222
  second:
    cmd: python stages second
    outs:
    - path: c
      hash: md5
      md5: 33333333333333333333333333333333
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has a lock, and there is no `dvc`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    Path("dvc.lock").write_text(LOCK)


def put(digit: str, content: str) -> None:
    """Into the cache, which nobody may write to."""
    file = Path(".dvc/cache/files/md5", 2 * digit, 30 * digit)
    file.parent.mkdir(parents=True)
    file.write_text(content)
    file.chmod(0o444)


def test_all_outputs_of_a_stage_are_put_back_and_may_be_written() -> None:
    put("1", "model")
    put("2", "{}")
    restore_outputs("first")
    assert Path("models/a.bin").read_text() == "model"
    assert Path("metrics/b.json").read_text() == "{}"
    Path("models/a.bin").write_text("another")


def test_where_one_is_not_cached_none_is_put_back() -> None:
    put("1", "model")
    restore_outputs("first")
    assert not Path("models").exists()


def test_a_stage_that_never_ran_has_nothing_to_put_back() -> None:
    restore_outputs("third")
    Path("dvc.lock").unlink()
    restore_outputs("first")
    assert not Path("models").exists()


def test_the_projects_own_lock_is_read() -> None:
    recorded = recorded_outputs((REPOSITORY / "dvc.lock").read_text())
    assert sum(map(len, recorded.values())) == 20
    assert Path("models/model.safetensors") in recorded["train"]
