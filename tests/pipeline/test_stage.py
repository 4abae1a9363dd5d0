import threading
from pathlib import Path

import pytest

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.pipeline.stage import exclusive_lock, running


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)


def test_a_second_run_of_a_stage_waits_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    order = []

    def second() -> None:
        with exclusive_lock("train"):
            order.append("second")

    with exclusive_lock("train"):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.5)
        assert other.is_alive()
        assert "train: waiting for another run of it" in capfd.readouterr().err
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_stages_of_other_names_do_not_wait(capfd: pytest.CaptureFixture[str]) -> None:
    with exclusive_lock("train"), exclusive_lock("export"):
        pass
    assert not capfd.readouterr().err


@pytest.mark.parametrize("error", [MnistCnnError("no such thing; do this"), OSError(28, "full")])
def test_a_failure_is_one_line_with_the_name_of_the_stage(error: Exception) -> None:
    with pytest.raises(SystemExit, match=r"^train: [^\n]+$"), running("train"):
        raise error


def test_after_a_failure_the_next_run_does_not_wait(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), running("train"), exclusive_lock("train"):
        raise MnistCnnError("once")
    with exclusive_lock("train"):
        pass
    assert not capfd.readouterr().err
