import csv
import io
import json
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import REPOSITORY, page
from PIL import Image

from mnist_cnn.cli.main import commands
from mnist_cnn.reader.recognizer import NO_INK
from mnist_cnn_train.data.dataset import Dataset

PROGRAM = Path(sys.executable).with_name("mnist-cnn")


def run(*arguments: object, given: bytes = b"") -> "subprocess.CompletedProcess[str]":
    """The installed program, as a user calls it."""
    result = subprocess.run(
        [PROGRAM, *map(str, arguments)], input=given, capture_output=True, check=False
    )
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
    )


def invoke(*arguments: object) -> Result:
    """The same in this process, which is quicker."""
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


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
    ("package", "extra", "command"),
    [
        ("pyarrow", "score", ["score", "{folder}", "{folder}/out"]),
        ("ray", "ray", ["score", "{folder}", "{folder}/out", "--engine", "ray"]),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_what_brings_it(
    package: str, extra: str, command: list[str], folder: Path
) -> None:
    """As in the plain wheel, which has only what the reader needs."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\nfrom mnist_cnn.cli.main import main\nmain()"
    )
    arguments = [part.format(folder=folder) for part in command]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"needs {package}, which is not installed: pip install '.[{extra}]'" in line


def test_a_folder_is_read_into_a_table_in_order(folder: Path, trained_model: Path) -> None:
    result = invoke("predict", folder, "--model", trained_model)
    assert result.exit_code == 0
    header, *lines = result.output.splitlines()
    assert header.split() == ["label", "probability", "warning", "picture"]
    names = sorted(path.name for path in folder.glob("*.png"))
    assert [line.rpartition("/")[2] for line in lines] == names
    assert sum(line.split()[0] == line[-5] for line in lines[:-1]) >= 22
    assert NO_INK in lines[-1]


def test_csv_and_json_hold_the_same_readings(folder: Path, trained_model: Path) -> None:
    of = (folder, "--model", trained_model)
    rows = list(csv.DictReader(io.StringIO(invoke("predict", "--csv", *of).output)))
    objects = [json.loads(line) for line in invoke("predict", "--json", *of).output.splitlines()]
    assert len(rows) == len(objects) == 24
    for row, content in zip(rows, objects, strict=True):
        assert row["picture"] == content["picture"]
        assert row["label"] == (content["label"] or "")
    assert len(objects[0]["probabilities"]) == 10


def test_the_likeliest_labels_are_listed(folder: Path, trained_model: Path) -> None:
    output = invoke("predict", "--csv", "--top", 99, folder, "--model", trained_model).output
    row = next(csv.DictReader(io.StringIO(output)))
    shares = [float(row[f"probability{suffix}"]) for suffix in ("", "_2", "_3", "_10")]
    assert shares == sorted(shares, reverse=True)
    assert "label_11" not in row


def test_a_picture_on_standard_input_is_read(folder: Path, trained_model: Path) -> None:
    path = min(folder.glob("*.png"))
    result = run("predict", "-", "--json", "--model", trained_model, given=path.read_bytes())
    content = json.loads(result.stdout)
    assert content["picture"] == "-"
    assert content["label"] == path.stem[-1]


def test_standard_input_that_is_no_picture_is_named(trained_model: Path) -> None:
    result = run("predict", "-", "--model", trained_model)
    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == ["  standard input: is empty"]


def test_unreadable_pictures_are_named_in_the_end_and_the_others_read(
    folder: Path, trained_model: Path, tmp_path: Path
) -> None:
    good = min(folder.glob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:100])
    result = run(
        "predict", broken, good, tmp_path / "none.png", good, "--csv", "--model", trained_model
    )
    assert result.returncode == 1
    assert [row["picture"] for row in csv.DictReader(io.StringIO(result.stdout))] == 2 * [str(good)]
    first, *rest = result.stderr.splitlines()
    assert first == "mnist-cnn: 2 of 4 pictures could not be read:"
    assert [line.split(": ")[0].strip() for line in rest] == [
        str(broken),
        str(tmp_path / "none.png"),
    ]


def test_a_folder_without_pictures_is_one_line(tmp_path: Path, trained_model: Path) -> None:
    result = run("predict", tmp_path, "--model", trained_model)
    assert result.returncode == 1
    assert result.stderr == f"mnist-cnn: there are no pictures in {tmp_path}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_name_that_is_not_utf_8_is_printed_as_it_is(
    folder: Path, trained_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(b"\xff.png")
    path.write_bytes(min(folder.glob("*.png")).read_bytes())
    command = [PROGRAM, "predict", "--csv", "--model", trained_model, path]
    result = subprocess.run(command, capture_output=True, check=True)
    assert os.fsencode(path) in result.stdout


def test_a_page_is_read_and_its_boxes_drawn(trained_model: Path, tmp_path: Path) -> None:
    image, _ = page(["31415", "926"])
    image.save(tmp_path / "page.png")
    found = tmp_path / "found.png"
    result = invoke(
        "read", tmp_path / "page.png", "--csv", "--boxes", found, "--model", trained_model
    )
    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.output)))
    assert [row["line"] for row in rows] == 5 * ["1"] + 3 * ["2"]
    assert {row["picture"] for row in rows} == {str(tmp_path / "page.png")}
    assert int(rows[0]["left"]) < int(rows[1]["left"])
    assert np.ptp(np.asarray(Image.open(found).convert("HSV"))[:, :, 1]) > 100  # colors


def test_a_page_that_cannot_be_read_is_one_line(tmp_path: Path, trained_model: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"no picture")
    result = run("read", tmp_path / "page.jpg", "--model", trained_model)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "page.jpg" in result.stderr


def test_a_page_without_digits_says_so(tmp_path: Path, trained_model: Path) -> None:
    Image.new("L", (200, 200), 255).save(tmp_path / "page.png")
    result = run("read", tmp_path / "page.png", "--model", trained_model)
    assert result.returncode == 0
    assert result.stdout == ""
    assert "no digits were found" in result.stderr


@pytest.mark.slow
def test_many_pictures_have_a_progress_bar_on_a_terminal_alone(
    folder: Path, trained_model: Path
) -> None:
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
    result = invoke("info", trained_model)
    assert result.exit_code == 0
    lines = dict(line.split("  ", 1) for line in result.output.splitlines())
    told = {name: text.strip() for name, text in lines.items()}
    assert told["input image"] == "tensor(uint8) ['batch', 28, 28]"
    assert told["parameters"] == "8890"
    assert told["labels"] == "0,1,2,3,4,5,6,7,8,9"
    assert told["file"].endswith(f"{trained_model.stat().st_size:,} bytes")


@pytest.mark.parametrize("command", [["info"], ["predict", "7.png", "--model"]])
@pytest.mark.parametrize("content", [None, b"not a model"])
def test_a_missing_or_broken_model_is_one_line(
    command: list[str], content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "digits.onnx"
    if content is not None:
        path.write_bytes(content)
    result = run(*command, path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert str(path) in result.stderr


def test_help_is_short_and_shows_examples() -> None:
    for command in ("predict", "read"):
        output = invoke(command, "--help").output
        assert f"mnist-cnn {command} " in output
        assert len(output.splitlines()) < 30


@pytest.mark.slow
def test_the_command_needs_no_torch() -> None:
    program = "import sys, mnist_cnn.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
