import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import hear_ctrl_c
from PIL import Image
from time_pipeline import PEAK

from mnist_cnn.batch.parts import UNREADABLE
from mnist_cnn.batch.plan import Summary, score
from mnist_cnn.cli.main import commands
from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256
from mnist_cnn.onnxfile.checksum import add_checksum
from mnist_cnn.reader.recognizer import NO_INK, Recognizer
from mnist_cnn_train.data.dataset import Dataset

IMAGES = 240
PROGRAM = Path(sys.executable).with_name("mnist-cnn")


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", 255 - pixels)[1].tobytes()


@pytest.fixture(scope="module")
def pictures(holdout_digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, one of them blank, one broken, one empty."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(holdout_digits.images[:IMAGES]):
        (folder / f"{number:04}.png").write_bytes(png(pixels))
    (folder / "0003.png").write_bytes(png(np.zeros((28, 28), np.uint8)))
    (folder / "0005.png").write_bytes((folder / "0004.png").read_bytes()[:150])
    (folder / "0007.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def parquet(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures in two files, as Hugging Face has them, in row groups of seventy."""
    folder = tmp_path_factory.mktemp("parquet")
    rows = [
        {"id": path.name, "image": {"bytes": path.read_bytes(), "path": None}}
        for path in sorted(pictures.iterdir())
    ]
    for number, some in enumerate((rows[:100], rows[100:])):
        pq.write_table(pa.Table.from_pylist(some), folder / f"{number}.parquet", row_group_size=70)
    return folder


@dataclass
class Job:
    """Scoring by the trained model into the folder `output`."""

    model: Path
    output: Path

    def beside(self, name: str) -> "Job":
        return replace(self, output=self.output.with_name(name))

    def score(self, source: Path, **options: Any) -> Summary:
        return score(source, self.output, **{"model": self.model, "workers": 1, **options})

    def refused(self, source: Path, **options: Any) -> str:
        with pytest.raises(MnistCnnError) as raised:
            self.score(source, **options)
        (line,) = str(raised.value).splitlines()
        return line

    def command(self, source: Path, *options: object) -> list[str]:
        arguments = ["score", source, self.output, "--model", self.model, *options]
        return [str(argument) for argument in arguments]

    def start(self, source: Path, *options: object) -> subprocess.Popen[str]:
        command = [PROGRAM, *self.command(source, *options)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c)

    def ready(self, values: list[Any], kind: pa.DataType | None = None, **options: int) -> Path:
        """Images that are as MNIST's, in a file beside the output."""
        path = self.output.with_name("ready.parquet")
        pq.write_table(pa.table({"image": pa.array(values, kind)}), path, **options)
        return path

    def parts(self) -> dict[Path, int]:
        """When each was written."""
        return {path: path.stat().st_mtime_ns for path in self.output.glob("part-*")}

    def wait_for_parts(self, count: int) -> None:
        end = time.monotonic() + 30
        while len(self.parts()) < count:
            assert time.monotonic() < end
            time.sleep(0.005)

    def hashes(self) -> dict[str, str]:
        return {path.name: sha256(path) for path in self.output.iterdir()}

    def rows(self) -> list[dict[str, Any]]:
        return pq.read_table(self.output).to_pylist()


@pytest.fixture
def job(trained_model: Path, tmp_path: Path) -> Job:
    return Job(trained_model, tmp_path / "out")


@pytest.fixture
def contents(holdout_digits: Dataset) -> list[bytes]:
    return [image.tobytes() for image in holdout_digits.images]


def test_a_folder_and_parquet_give_the_readings_of_predict(
    pictures: Path, parquet: Path, recognizer: Recognizer, job: Job
) -> None:
    other = job.beside("other")
    for summary in (job.score(pictures, size=50), other.score(parquet, size=50)):
        assert (summary.images, summary.unreadable, summary.parts) == (IMAGES, 2, 5)
    by_path, by_id = job.rows(), other.rows()
    assert [row.pop("path") for row in by_path] == [row.pop("id") for row in by_id]
    assert by_path == by_id
    for place in (0, 1, 3, IMAGES - 1):
        prediction, row = recognizer.predict(pictures / f"{place:04}.png"), by_path[place]
        assert (row["label"], row["warning"]) == (prediction.label, prediction.warning)
        if prediction.label:
            expected = list(prediction.probabilities.values())
            assert row["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_a_broken_picture_is_a_row_and_no_end(pictures: Path, job: Job) -> None:
    for _ in range(2):  # the second time, nothing is left to do
        result = CliRunner().invoke(commands, job.command(pictures, "--workers", 1))
        assert isinstance(result.exception, MnistCnnError)
        assert str(result.exception).startswith(f"2 of {IMAGES} images could not be read")
    found = job.rows()
    assert found[3] == {"path": "0003.png", "label": None, "probabilities": None, "warning": NO_INK}
    assert found[5]["warning"].startswith(f"{UNREADABLE}is damaged")
    assert found[7]["warning"] == f"{UNREADABLE}is empty"
    assert [place for place, row in enumerate(found) if not row["label"]] == [3, 5, 7]


def test_a_picture_of_any_name_is_read_and_a_warning_of_its_file_told(
    pictures: Path, job: Job, tmp_path: Path
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a").write_bytes((pictures / "0001.png").read_bytes())
    with Image.open(folder / "a") as page:
        page.save(folder / "b.TIF", save_all=True, append_images=[page])
    job.score(folder)
    first, second = job.rows()
    assert (first["path"], second["path"]) == ("a", "b.TIF")
    assert first["probabilities"] == second["probabilities"] is not None
    assert (first["warning"], second["warning"]) == (None, "has 2 pages; only the first is read")


BYTE = pa.uint8()


@pytest.mark.parametrize(
    "kind",
    [pa.binary(784), pa.binary(), pa.large_binary(), pa.list_(BYTE), pa.list_(BYTE, 784)],
    ids=str,
)
def test_images_that_are_ready_are_read_as_they_are(
    kind: pa.DataType, holdout_digits: Dataset, recognizer: Recognizer, job: Job
) -> None:
    images = holdout_digits.images[:90].copy()
    images[10] = 0
    expected = [prediction.label for prediction in recognizer.classify(images)]
    values = [image.ravel() if "list" in str(kind) else image.tobytes() for image in images]
    job.score(job.ready(values, kind, row_group_size=40), size=25)
    found = job.rows()
    assert [row["id"] for row in found] == list(range(90))
    assert found[10]["warning"] == NO_INK
    assert [row["label"] for row in found[11:]] == expected[11:]

    values[80] = None
    other = job.beside("other")
    assert other.score(job.ready(values, kind, row_group_size=40), size=25).unreadable == 1
    again = other.rows()
    assert again[80]["warning"] == f"{UNREADABLE}is null"
    assert again[:75] == found[:75]
    assert [row["label"] for row in again[81:]] == expected[81:]


def test_bytes_of_784_that_begin_as_a_picture_are_one(holdout_digits: Dataset, job: Job) -> None:
    digit = holdout_digits.images[0]
    picture = png(digit).ljust(784, b"\0")  # what follows the end of a PNG is not read
    job.score(job.ready([picture, digit.tobytes()]), workers=None)
    assert [row["label"] for row in job.rows()] == 2 * [str(holdout_digits.labels[0])]


@pytest.mark.slow
def test_ray_writes_the_same_bytes_and_goes_on_with_what_another_engine_left(
    parquet: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.score(parquet, size=50)
    whole = job.hashes()
    assert len(whole) == 7
    first, kept, *others = sorted(job.parts())
    written = job.parts()[kept]
    for part in (first, *others[:2]):
        part.unlink()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with job.start(parquet, "--engine", "ray", "--workers", 1, "--part-size", 50) as running:
        (line,) = running.communicate(timeout=120)[1].splitlines()
    assert running.returncode == 1
    assert "images could not be read" in line
    assert job.hashes() == whole
    assert job.parts()[kept] == written


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was_and_the_bytes_do_not_depend_on_the_workers(
    contents: list[bytes], job: Job
) -> None:
    many = job.ready(40 * contents)
    whole = job.beside("whole")
    whole.score(many, size=2_000)
    options = ("--part-size", 2_000, "--workers", 2)
    with job.start(many, *options) as running:
        job.wait_for_parts(4)
        children = psutil.Process(running.pid).children()
        running.kill()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, "a worker outlived the run"
    left = job.parts()
    assert 4 <= len(left) < 20
    with job.start(many, *options) as running:
        assert running.communicate()[1] == ""
    assert running.returncode == 0
    assert job.hashes() == whole.hashes()
    assert left.items() <= job.parts().items()


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_a_second_run_is_refused(contents: list[bytes], job: Job) -> None:
    many = job.ready(40 * contents)
    with job.start(many, "--part-size", 500, "--workers", 2) as running:
        job.wait_for_parts(1)
        running.send_signal(signal.SIGSTOP)  # else it might end before the signal below
        assert "is being written by another run" in job.refused(many, size=500)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGCONT)
        assert running.communicate()[1] == "mnist-cnn: interrupted\n"
    assert running.returncode == 130


def test_another_model_or_input_does_not_go_on_with_an_old_output(
    parquet: Path, job: Job, tmp_path: Path
) -> None:
    source, other = tmp_path / "some.parquet", tmp_path / "other.onnx"
    table = pq.read_table(parquet)
    pq.write_table(table[:20], source)
    job.score(source)
    before = job.hashes()
    model = onnx.load(job.model)
    model.metadata_props.pop()  # the checksum, which it gets anew
    model.producer_name = "another"
    other.write_bytes(add_checksum(model))
    assert "begun with another model; choose another output" in job.refused(source, model=other)
    assert "begun with another part size" in job.refused(source, size=7)
    pq.write_table(table[20:40], source)
    assert "begun with another input" in job.refused(source)
    assert job.hashes() == before


def test_a_damaged_part_is_made_anew(parquet: Path, job: Job) -> None:
    job.score(parquet, size=100)
    before = job.hashes()
    part = max(job.parts())
    part.write_bytes(part.read_bytes()[:-50])
    assert job.score(parquet, size=100).kept == 2
    assert job.hashes() == before


def test_what_is_wrong_with_the_input_is_one_line(
    pictures: Path, parquet: Path, job: Job, tmp_path: Path
) -> None:
    assert "there is no file or folder" in job.refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no Parquet files or pictures" in job.refused(tmp_path / "empty")
    assert "not Parquet" in job.refused(pictures / "0000.png")
    assert "no column 'digit'; it has: id, image" in job.refused(parquet, column="digit")
    assert "'id' is of string; images should be" in job.refused(parquet, column="id")
    assert "should be an integer or a string" in job.refused(parquet, key="image")
    assert "lies in" in replace(job, output=pictures / "out").refused(pictures)
    assert not job.output.exists()
    assert "holds something else" in replace(job, output=pictures).refused(parquet)
    for number, value in enumerate((b"x", "x")):
        pq.write_table(pa.table({"image": [value]}), tmp_path / f"empty/{number}.parquet")
    assert "of string, but of binary in" in job.refused(tmp_path / "empty")


def test_neither_torch_nor_ray_is_imported_unless_asked_for() -> None:
    code = "import sys, mnist_cnn.batch.plan; print({'torch', 'ray'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout == b"set()\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts in kB")
def test_memory_does_not_grow_with_the_input(contents: list[bytes], job: Job) -> None:
    """Four times as many images, 94 MB more, in one row group."""
    peaks = []
    for times in (40, 160):
        source, other = job.ready(times * contents), job.beside(str(times))
        command = other.command(source, "--part-size", 8_000, "--workers", 1)
        measured = [sys.executable, "-c", PEAK, PROGRAM, *command]
        told = subprocess.run(measured, capture_output=True, check=True).stdout
        peaks.append(int(told.split()[-1]))
    assert abs(peaks[1] - peaks[0]) < 25_000, peaks
