import pytest

from mnist_cnn.core.errors import MnistCnnError, exit_on_error, one_line


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MnistCnnError("lower the learning rate"), "train: lower the learning rate"),
        (PermissionError(13, "Permission denied", "models"), "train: models: Permission denied"),
        (KeyboardInterrupt(), 130),
    ],
    ids=["what a user can fix", "what the system refuses", "Ctrl-C"],
)
def test_a_failure_ends_the_program_with_one_line(
    error: BaseException, code: str | int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error("train"):
        raise error
    assert end.value.code == code  # a text is printed, and 1 for the shell
    assert capsys.readouterr().err == ("train: interrupted\n" if code == 130 else "")


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
