import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from mnist_cnn.batch.parts import UNREADABLE
from mnist_cnn.batch.plan import score
from mnist_cnn.cli.main import commands
from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.files import sha256
from mnist_cnn.onnxfile.checksum import add_checksum
from mnist_cnn.onnxfile.contract import CHECKSUM_KEY
from mnist_cnn.reader.recognizer import NO_INK, Recognizer
from mnist_cnn_train.data.dataset import Dataset

IMAGES = 240


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(255 - pixels).save(content, "PNG")
    return content.getvalue()


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


def ready(folder: Path, values: pa.Array, **options: int) -> Path:
    path = folder / "ready.parquet"
    pq.write_table(pa.table({"image": values}), path, **options)
    return path


def hashes(output: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in output.iterdir()}


def rows(output: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(output).to_pylist()
    return found


def test_a_folder_and_parquet_give_the_readings_of_predict(
    pictures: Path, parquet: Path, recognizer: Recognizer, trained_model: Path, tmp_path: Path
) -> None:
    for source, output in ((pictures, "a"), (parquet, "b")):
        summary = score(source, tmp_path / output, model=trained_model, size=50, workers=1)
        assert (summary.images, summary.unreadable, summary.parts) == (IMAGES, 2, 5)
    by_path, by_id = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert [row.pop("path") for row in by_path] == [row.pop("id") for row in by_id]
    assert by_path == by_id
    for place in (0, 1, 3, IMAGES - 1):
        prediction = recognizer.predict(pictures / f"{place:04}.png")
        row = by_path[place]
        assert (row["label"], row["warning"]) == (prediction.label, prediction.warning)
        if prediction.label:
            expected = list(prediction.probabilities.values())
            assert row["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_a_broken_picture_is_a_row_and_no_end(
    pictures: Path, trained_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = ["score", pictures, output, "--model", trained_model, "--workers", 1]
    for _ in range(2):  # the second time, nothing is left to do
        result = CliRunner().invoke(commands, list(map(str, command)))
        assert isinstance(result.exception, MnistCnnError)
        assert str(result.exception).startswith(f"2 of {IMAGES} images could not be read")
    found = rows(output)
    assert found[3] == {"path": "0003.png", "label": None, "probabilities": None, "warning": NO_INK}
    assert str(found[5]["warning"]).startswith(f"{UNREADABLE}is damaged")
    assert found[7]["warning"] == f"{UNREADABLE}is empty"
    assert all(row["label"] for place, row in enumerate(found) if place not in (3, 5, 7))


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(784),
        pa.binary(),
        pa.large_binary(),
        pa.list_(pa.uint8()),
        pa.list_(pa.uint8(), 784),
    ],
    ids=str,
)
def test_images_that_are_ready_are_read_as_they_are(
    kind: pa.DataType,
    holdout_digits: Dataset,
    recognizer: Recognizer,
    trained_model: Path,
    tmp_path: Path,
) -> None:
    images = holdout_digits.images[:90].copy()
    images[10] = 0
    flat = images.reshape(-1, 784)
    values = flat.tolist() if "list" in str(kind) else [row.tobytes() for row in flat]
    clean = ready(tmp_path, pa.array(values, kind), row_group_size=40)
    score(clean, tmp_path / "a", model=trained_model, size=25, workers=1)
    found = rows(tmp_path / "a")
    assert [row["id"] for row in found] == list(range(90))
    assert found[10]["warning"] == NO_INK
    expected = [prediction.label for prediction in recognizer.classify(images)]
    assert [row["label"] for row in found[11:]] == expected[11:]

    mixed = ready(tmp_path, pa.array([*values[:80], None, *values[81:]], kind), row_group_size=40)
    assert score(mixed, tmp_path / "b", model=trained_model, size=25, workers=1).unreadable == 1
    again = rows(tmp_path / "b")
    assert again[80]["warning"] == f"{UNREADABLE}is null"
    assert again[:75] == found[:75]
    assert [row["label"] for row in again[81:]] == expected[81:]


def test_bytes_of_784_that_begin_as_a_picture_are_one(
    holdout_digits: Dataset, trained_model: Path, tmp_path: Path
) -> None:
    digit = holdout_digits.images[0]
    picture = png(digit).ljust(784, b"\0")  # what follows the end of a PNG is not read
    source = ready(tmp_path, pa.array([picture, digit.tobytes()]))
    score(source, tmp_path / "out", model=trained_model)
    assert [row["label"] for row in rows(tmp_path / "out")] == 2 * [str(holdout_digits.labels[0])]


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    parquet: Path, trained_model: Path, tmp_path: Path
) -> None:
    for workers in (1, 2):
        output = tmp_path / str(workers)
        score(parquet, output, model=trained_model, size=50, workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    assert len(hashes(tmp_path / "1")) == 7


@pytest.mark.slow
def test_ray_writes_the_same_bytes_and_goes_on_with_what_another_engine_left(
    parquet: Path, trained_model: Path, tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "ray"
    for folder in (whole, output):
        score(parquet, folder, model=trained_model, size=50, workers=1)
    kept = output / "part-000001.parquet"
    written = kept.stat().st_mtime_ns
    for part in (0, 2, 3):
        (output / f"part-{part:06}.parquet").unlink()
    code = "from mnist_cnn.cli.main import main; main()"
    command = [sys.executable, "-c", code, "score", parquet, output, "--engine", "ray"]
    result = subprocess.run(
        [*map(str, command), "--workers", "1", "--part-size", "50", "--model", str(trained_model)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr  # the unreadable
    assert hashes(output) == hashes(whole)
    assert kept.stat().st_mtime_ns == written


def begin(source: Path, output: Path, model: Path, *options: object) -> "subprocess.Popen[bytes]":
    code = "from mnist_cnn.cli.main import main; main()"
    command = [sys.executable, "-c", code, "score", source, output, "--model", model, *options]
    return subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE)


@pytest.fixture
def many(holdout_digits: Dataset, tmp_path: Path) -> Path:
    """40,000 images that are ready, in one row group."""
    flat = holdout_digits.images.reshape(-1, 784)
    return ready(tmp_path, pa.array([row.tobytes() for row in flat] * 40, pa.binary(784)))


def wait_for(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(many: Path, trained_model: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "out"
    score(many, whole, model=trained_model, size=2_000, workers=1)
    options = ("--part-size", 2_000, "--workers", 2)
    with begin(many, output, trained_model, *options) as running:
        wait_for(lambda: len(list(output.glob("part-*"))) >= 4)
        children = psutil.Process(running.pid).children()
        running.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive, "a worker outlived the run"
    left = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 4 <= len(left) < 20
    with begin(many, output, trained_model, *options) as running:
        assert running.stderr is not None
        assert running.stderr.read() == b""
    assert running.returncode == 0
    assert hashes(output) == hashes(whole)
    assert {path: path.stat().st_mtime_ns for path in left} == left


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_a_second_run_beside_is_refused(
    many: Path, trained_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with begin(many, output, trained_model, "--part-size", 500, "--workers", 2) as running:
        wait_for(lambda: list(output.glob("part-*")))
        running.send_signal(signal.SIGSTOP)  # else it might end before the signal below
        with pytest.raises(MnistCnnError, match="is being written by another run"):
            score(many, output, model=trained_model, size=500)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGCONT)
        assert running.stderr is not None
        assert running.stderr.read() == b"mnist-cnn: interrupted\n"
    assert running.returncode == 130


def test_another_model_or_input_does_not_go_on_with_an_old_output(
    parquet: Path, trained_model: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "some.parquet", tmp_path / "out"
    table = pq.read_table(parquet)
    pq.write_table(table[:20], source)
    score(source, output, model=trained_model, workers=1)
    before = hashes(output)
    other = tmp_path / "other.onnx"
    model = onnx.load(trained_model)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    del properties[CHECKSUM_KEY]  # which it gets anew
    onnx.helper.set_model_props(model, {**properties, "licence": "another"})
    other.write_bytes(add_checksum(model))
    with pytest.raises(MnistCnnError, match="begun with another model; choose another output"):
        score(source, output, model=other)
    with pytest.raises(MnistCnnError, match="begun with another part size"):
        score(source, output, model=trained_model, size=7)
    pq.write_table(table[20:40], source)
    with pytest.raises(MnistCnnError, match="begun with another input"):
        score(source, output, model=trained_model)
    assert hashes(output) == before


def test_a_damaged_part_is_made_anew(parquet: Path, trained_model: Path, tmp_path: Path) -> None:
    score(parquet, tmp_path, model=trained_model, size=100, workers=1)
    before = hashes(tmp_path)
    part = tmp_path / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    assert score(parquet, tmp_path, model=trained_model, size=100, workers=1).kept == 2
    assert hashes(tmp_path) == before


def test_what_is_wrong_with_the_input_is_one_line(
    pictures: Path, parquet: Path, trained_model: Path, tmp_path: Path
) -> None:
    def refused(source: Path, output: Path = tmp_path / "out", **options: str) -> str:
        with pytest.raises(MnistCnnError) as raised:
            score(source, output, model=trained_model, **options)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "there is no file or folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no Parquet files or pictures" in refused(tmp_path / "empty")
    assert "not Parquet" in refused(pictures / "0000.png")
    assert "no column 'digit'; it has: id, image" in refused(parquet, column="digit")
    assert "'id' is of string; images should be" in refused(parquet, column="id")
    assert "should be an integer or a string" in refused(parquet, key="image")
    assert "lies in" in refused(pictures, pictures / "out")
    assert not (tmp_path / "out").exists()
    assert "holds something else" in refused(parquet, pictures)
    different = tmp_path / "different"
    different.mkdir()
    pq.write_table(pa.table({"image": [b"x"]}), different / "a.parquet")
    pq.write_table(pa.table({"image": ["x"]}), different / "b.parquet")
    assert "of string, but of binary in" in refused(different)


def test_neither_torch_nor_ray_is_imported_unless_asked_for() -> None:
    code = "import sys, mnist_cnn.batch.plan; print({'torch', 'ray'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout == b"set()\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the peak")
def test_memory_does_not_grow_with_the_input(
    holdout_digits: Dataset, trained_model: Path, tmp_path: Path
) -> None:
    """Four times as many images, 94 MB more, in one row group."""
    code = (
        "import re, sys; from pathlib import Path; from mnist_cnn.batch.plan import score\n"
        "score(*map(Path, sys.argv[1:3]), model=Path(sys.argv[3]), size=8_000, workers=1)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    flat = holdout_digits.images.reshape(-1, 784)
    peaks = []
    for times in (40, 160):
        source = ready(tmp_path, pa.array([row.tobytes() for row in flat] * times, pa.binary(784)))
        command = [sys.executable, "-c", code, source, tmp_path / str(times), trained_model]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout) * 1024)
    assert abs(peaks[1] - peaks[0]) < 25e6, peaks
