import csv
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import page
from PIL import Image

import mnist_cnn
from mnist_cnn.cli.main import commands
from mnist_cnn.reader.recognizer import NO_INK
from mnist_cnn_train.data.dataset import Dataset

PROGRAM = Path(sys.executable).with_name("mnist-cnn")


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The installed program, as a user calls it."""
    command = [PROGRAM, *map(str, arguments)]
    options = {"stdin": subprocess.DEVNULL, "errors": "surrogateescape", **options}
    return subprocess.run(command, capture_output=True, check=False, **options)


def invoke(*arguments: object) -> str:
    """The same in this process, which is quicker."""
    result = CliRunner().invoke(commands, [str(argument) for argument in arguments])
    assert result.exit_code == 0
    return result.output


def rows(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader(output.splitlines()))


@pytest.fixture(scope="module")
def folder(holdout_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-three pictures named by their number and label, and one with nothing on it."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(23):
        pixels, label = holdout_digits.images[40 * number], holdout_digits.labels[40 * number]
        Image.fromarray(255 - pixels).resize((90, 90)).save(folder / f"{number:02} {label}.png")
    Image.new("L", (50, 50), 255).save(folder / "blank.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.mark.parametrize(
    ("package", "extra", "options"), [("pyarrow", "score", []), ("ray", "ray", ["--engine", "ray"])]
)
def test_a_package_that_is_not_installed_is_named_with_what_brings_it(
    package: str, extra: str, options: list[str]
) -> None:
    """As in the plain wheel, which has only what the reader needs."""
    code = (
        f"import sys; sys.modules[{package!r}] = None; from mnist_cnn.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "score", "in", "out", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"needs {package}, which is not installed: pip install '.[{extra}]'" in line


def test_a_folder_is_read_into_a_table_in_order(folder: Path, trained_model: Path) -> None:
    header, *lines = invoke("predict", folder, "--model", trained_model).splitlines()
    assert header.split() == ["label", "probability", "warning", "picture"]
    names = sorted(path.name for path in folder.glob("*.png"))
    assert [line.rpartition("/")[2] for line in lines] == names
    assert sum(line.split()[0] == line[-5] for line in lines[:-1]) >= 22
    assert NO_INK in lines[-1]


def test_the_likeliest_labels_are_listed(folder: Path, trained_model: Path) -> None:
    row = rows(invoke("predict", "--csv", "--top", 99, folder, "--model", trained_model))[0]
    shares = [float(row[f"probability{suffix}"]) for suffix in ("", "_2", "_3", "_10")]
    assert shares == sorted(shares, reverse=True)
    assert "label_11" not in row


def test_a_picture_on_standard_input_is_read(folder: Path, trained_model: Path) -> None:
    path = min(folder.glob("*.png"))
    with path.open() as file:
        result = run("predict", "-", "--json", "--model", trained_model, stdin=file)
    content = json.loads(result.stdout)
    assert (content["picture"], content["label"]) == ("-", path.stem[-1])
    assert len(content["probabilities"]) == 10


def test_unreadable_pictures_are_named_in_the_end_and_the_others_read(
    folder: Path, trained_model: Path, tmp_path: Path
) -> None:
    good, broken, none = min(folder.glob("*.png")), tmp_path / "broken.png", tmp_path / "none.png"
    broken.write_bytes(good.read_bytes()[:100])
    result = run("predict", broken, good, none, "-", good, "--csv", "--model", trained_model)
    assert result.returncode == 1
    assert [row["picture"] for row in rows(result.stdout)] == 2 * [str(good)]
    first, *rest = result.stderr.splitlines()
    assert first == "mnist-cnn: 3 of 5 pictures could not be read:"
    names = [line.split(": ")[0].strip() for line in rest]
    assert names == [str(broken), str(none), "standard input"]
    assert rest[-1] == "  standard input: is empty"


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_name_not_in_utf_8_is_printed(folder: Path, trained_model: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.png")
    path.write_bytes(min(folder.glob("*.png")).read_bytes())
    assert str(path) in run("predict", "--csv", "--model", trained_model, path).stdout


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_a_name_outside_the_terminals_code_page_is_escaped(
    form: str, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "七.png"
    path.write_bytes(min(folder.glob("*.png")).read_bytes())
    result = run("predict", form, path, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (result.returncode, result.stderr) == (0, "")
    assert "\\u4e03.png" in result.stdout


@pytest.mark.parametrize(
    "arguments", [["predict"], ["read"], ["info"], ["score"], ["predict", "7.png", "--model"]]
)
def test_a_name_cannot_break_the_line_of_an_error(arguments: list[str], tmp_path: Path) -> None:
    rest = ["out"] if arguments == ["score"] else []
    result = run(*arguments, tmp_path / "a\n\x1b[31m.png", *rest)
    assert result.returncode == 1
    assert result.stderr.count("a\\n\\x1b[31m.png") == 1
    assert "\x1b" not in result.stderr


def test_a_page_is_read_and_its_boxes_drawn(trained_model: Path, tmp_path: Path) -> None:
    path, found = tmp_path / "page.png", tmp_path / "found.png"
    page(["31415", "926"])[0].save(path)
    lines = rows(invoke("read", path, "--csv", "--boxes", found, "--model", trained_model))
    assert [row["line"] for row in lines] == 5 * ["1"] + 3 * ["2"]
    assert {row["picture"] for row in lines} == {str(path)}
    assert int(lines[0]["left"]) < int(lines[1]["left"])
    assert np.ptp(np.asarray(Image.open(found).convert("HSV"))[:, :, 1]) > 100  # colors


def test_folders_and_scans_of_several_pages_are_read(trained_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    first, second = (page([text])[0] for text in ("31", "926"))
    first.save(tmp_path / "in/one.png")
    first.save(tmp_path / "scan.tif", save_all=True, append_images=[second])
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    given = ("read", "--csv", "--model", trained_model, tmp_path / "in", tmp_path / "scan.tif")
    result = run(*given, text=True)
    sources = Counter(row["picture"] for row in rows(result.stdout))
    one, scan = tmp_path / "in/one.png", tmp_path / "scan.tif"
    assert sources == {str(one): 2, f"{scan}#page=1": 2, f"{scan}#page=2": 3}
    assert result.returncode == 1
    assert "1 of 3 pictures could not be read" in result.stderr
    assert f"{tmp_path / 'in/broken.png'}: is not a picture" in result.stderr


def test_a_page_without_digits_says_so(tmp_path: Path, trained_model: Path) -> None:
    Image.new("L", (200, 200), 255).save(tmp_path / "page.png")
    result = run("read", tmp_path / "page.png", "--model", trained_model)
    assert (result.returncode, result.stdout) == (0, "")
    assert "no digits were found" in result.stderr


@pytest.mark.slow
def test_a_progress_bar_is_shown_on_a_terminal_alone(folder: Path, trained_model: Path) -> None:
    command = [PROGRAM, "predict", "--csv", "--model", trained_model, *5 * [folder]]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=end):
        os.close(end)
        shown = b""
        with suppress(OSError):  # the terminal's end
            while part := os.read(terminal, 10_000):
                shown += part
    os.close(terminal)
    assert b"/120" in shown
    assert run(*command[1:]).stderr == ""


def test_info_tells_what_the_file_is(trained_model: Path) -> None:
    lines = [line.split("  ", 1) for line in invoke("info", trained_model).splitlines()]
    told = {name: text.strip() for name, text in lines}
    assert told["input image"] == "tensor(uint8) ['batch', 28, 28]"
    assert told["parameters"] == "8890"
    assert told["labels"] == "0,1,2,3,4,5,6,7,8,9"
    assert told["file"].endswith(f"{trained_model.stat().st_size:,} bytes")
    assert "recipe" not in told


def test_info_tells_version_recipe_and_accuracy_of_the_packaged_model() -> None:
    told = dict(re.split("  +", line, maxsplit=1) for line in invoke("info").splitlines())
    assert told["version"] == f"mnist-cnn {mnist_cnn.__version__}"
    assert told["recipe"] == "reader"
    assert float(told["test_accuracy"]) > 0.99


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["predict", "."], "there are no pictures in ."),
        (["read", "text"], "text: is not a picture"),
        (["info", "none"], "there is no file none"),
        (["info", "text"], "text is not a usable ONNX model"),
        (["predict", "7.png", "--model", "none"], "there is no file none"),
        (["predict", "7.png", "--model", "text"], "text is not a usable ONNX model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str], problem: str, trained_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("neither a picture nor a model")
    command, *rest = arguments
    if command != "info":
        rest = ["--model", trained_model, *rest]
    result = run(command, *rest, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mnist-cnn: {problem}")


def test_help_is_short_and_shows_examples() -> None:
    for command in ("predict", "read"):
        output = invoke(command, "--help")
        assert f"mnist-cnn {command} " in output
        assert len(output.splitlines()) < 30


def test_a_picture_may_come_through_a_pipe(folder: Path) -> None:
    picture = next(folder.glob("00*.png"))
    command = [PROGRAM, "predict", "/dev/stdin"]
    result = subprocess.run(command, input=picture.read_bytes(), capture_output=True, check=True)
    assert result.stdout.decode().splitlines()[1].split()[0] == picture.stem[-1]


def test_two_forms_at_once_are_refused() -> None:
    result = CliRunner().invoke(commands, ["predict", "--json", "--csv", "a.png"])
    assert result.exit_code == 2
    assert "--csv and --json exclude each other" in result.output


def test_a_closed_standard_input_is_one_line() -> None:
    command = f"'{PROGRAM}' predict - <&-"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "mnist-cnn: standard input is closed\n")


def test_boxes_for_a_folder_that_does_not_exist_are_refused(folder: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "none/boxes.png"
    result = run("read", next(folder.glob("00*.png")), "--boxes", boxes, text=True)
    assert result.stderr == f"mnist-cnn: {boxes}: there is no folder {boxes.parent}\n"
    assert not boxes.parent.exists()
