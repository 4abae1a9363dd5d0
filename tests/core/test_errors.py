import pytest

from mnist_cnn.core.errors import MnistCnnError, exit_on_error, one_line


def test_a_mendable_failure_ends_in_one_line_and_exit_code_1() -> None:
    with pytest.raises(SystemExit) as end, exit_on_error("train"):
        raise MnistCnnError("lower the learning rate")
    assert end.value.code == "train: lower the learning rate"  # printed, and 1 for the shell


def test_what_the_system_refuses_names_the_file() -> None:
    with pytest.raises(SystemExit) as end, exit_on_error("train"):
        raise PermissionError(13, "Permission denied", "models")
    assert end.value.code == "train: models: Permission denied"


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error("train"):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "train: interrupted\n"


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error("train"):
        _ = 1 // 0


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (ValueError("several\n  lines "), "several lines"),
        (ValueError(), "ValueError"),
        (PermissionError(13, "Permission denied", "models"), "models: Permission denied"),
        (OSError(98, "Address already in use"), "Address already in use"),
        (OSError("no errno\nhere"), "no errno here"),
        ("what a program\nprinted\n", "what a program printed"),
    ],
)
def test_any_problem_fits_into_one_line(problem: Exception | str, line: str) -> None:
    assert one_line(problem) == line
