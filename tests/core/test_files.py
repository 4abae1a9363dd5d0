import json
from pathlib import Path

import numpy as np
import pytest

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import replacing, write_bytes, write_json
from mnist_cnn_train.pipeline.tables import read_columns, write_csv


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "old").touch()
    return folder


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_text("good")
    with pytest.raises(RuntimeError), replacing(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "good"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_folder_and_nothing_else(folder: Path) -> None:
    with pytest.raises(RuntimeError), replacing(folder) as partial:
        partial.mkdir()
        (partial / "half").touch()
        raise RuntimeError
    assert list(folder.parent.rglob("*")) == [folder, folder / "old"]


def test_a_folder_replaces_a_folder_with_other_files(folder: Path) -> None:
    with replacing(folder) as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert list(folder.iterdir()) == [folder / "new"]


def test_what_a_killed_run_left_is_in_nobodys_way(folder: Path) -> None:
    folder.rename(folder.with_name(".model.partial"))
    write_bytes(folder.with_name("model"), b"new")
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_json_is_readable_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "metrics.json"
    write_json(path, {"accuracy": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"accuracy": float("nan")})
    assert json.loads(path.read_text()) == {"accuracy": 0.5}


def test_columns_come_back_as_they_were_written_and_an_empty_field_as_nan(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_csv(path, ["epoch", "loss"], [(1, 0.1), (2, 1e-9), (3, None)])
    assert path.read_bytes() == b"epoch,loss\n1,0.1\n2,1e-09\n3,\n"
    columns = read_columns(path)
    np.testing.assert_array_equal(columns["epoch"], [1, 2, 3])
    np.testing.assert_array_equal(columns["loss"], [0.1, 1e-9, np.nan])


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "epoch,loss\n1\n", "epoch,loss\n1,x\n"])
def test_damaged_columns_are_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(MnistCnnError, match=f"{path} is damaged; run `dvc repro`"):
        read_columns(path)


def test_what_cannot_be_written_is_named_as_the_user_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(OSError, match="Is a directory") as failure, replacing(path) as partial:
        partial.mkdir()
        partial.write_bytes(b"content")
    assert failure.value.filename == str(path)
