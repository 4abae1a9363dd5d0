import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import flipped
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets.mnist import read_image_file, read_label_file

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.core.mnist import PIXEL_MEAN, PIXEL_STD
from mnist_cnn_train.data.catalog import SHA256, TEST_FILES, TRAINING_FILES
from mnist_cnn_train.data.dataset import (
    Dataset,
    read_digits,
    read_test_digits,
    read_training_digits,
)
from mnist_cnn_train.data.idx import read_idx, to_idx
from mnist_cnn_train.data.split import load_split, stratified_split
from mnist_cnn_train.pipeline.params import Params


@pytest.mark.parametrize(
    ("read", "files"),
    [(read_training_digits, TRAINING_FILES), (read_test_digits, TEST_FILES)],
    ids=["training", "test"],
)
def test_digits_are_those_that_torchvision_reads(read, files, raw_data: Path) -> None:
    digits = read(raw_data)
    images, labels = (str(raw_data / name) for name in files)
    assert torch.equal(torch.from_numpy(digits.images), read_image_file(images))
    assert torch.equal(torch.from_numpy(digits.labels), read_label_file(labels))
    assert (digits.images.dtype, digits.labels.dtype) == (np.uint8, np.int64)


@pytest.mark.slow
def test_the_constants_are_those_of_the_training_pixels(raw_data: Path) -> None:
    pixels = read_training_digits(raw_data).images / 255
    assert pixels.mean() == pytest.approx(PIXEL_MEAN, abs=5e-5)
    assert pixels.std() == pytest.approx(PIXEL_STD, abs=5e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file"),
        (b"\x00\x00\x08", "is not an IDX file"),
        (b"<html>404</html>", "is not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "is not an IDX file"),  # of floats
        (b"\x00\x00\x08\x03\x00\x00\x00\x01", "ends within its header"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02\x07", "holds 1 values, but its header states 2"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02\x07\x07\x07", "holds 3 values"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12 + b"\x07", "holds 1 values"),  # claims 2^96 bytes
        (b"\x00\x00\x08\x03" + bytes(4) + b"\xff" * 8, "states axes that no array has"),
        (b"\x00\x00\x08\xff" + bytes(4 * 255), "states axes that no array has"),
    ],
)
def test_a_damaged_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(MnistCnnError, match=f"{path} {message}"):
        read_idx(path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 28, 28)), np.zeros(2), "labels does not hold one label for each image"),
        (np.zeros(3), np.zeros(3), "images holds no 28x28 images"),
        (np.zeros((0, 28, 28)), np.zeros(0), "images holds no 28x28 images"),
        (np.zeros((3, 28, 28)), np.array([0, 9, 77]), "labels holds the label 77"),
    ],
    ids=["too few labels", "no images", "none at all", "no digit"],
)
def test_what_are_no_digits_with_labels_is_refused(
    images: np.ndarray, labels: np.ndarray, message: str, tmp_path: Path
) -> None:
    for name, values in (("images", images), ("labels", labels)):
        (tmp_path / name).write_bytes(to_idx(values.astype(np.uint8)))
    with pytest.raises(MnistCnnError, match=f"{tmp_path}/{message}"):
        read_digits(tmp_path / "images", tmp_path / "labels")


def test_missing_files_name_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(MnistCnnError, match=r"there is no .*; run `dvc repro download`"):
        read_test_digits(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize("name", SHA256)
def test_one_flipped_bit_is_noticed(name: str, raw_data: Path, tmp_path: Path) -> None:
    for other in SHA256:
        (tmp_path / other).symlink_to(raw_data / other)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(flipped((raw_data / name).read_bytes(), 5_000))
    read = read_training_digits if name in TRAINING_FILES else read_test_digits
    with pytest.raises(MnistCnnError, match=f"{name} is damaged: .*; run `make repair`"):
        read(tmp_path)


def with_header(sizes: list[int], values: bytes) -> bytes:
    return struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes) + values


SIZES = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 4), max_size=5)


@pytest.mark.fault
@pytest.mark.fuzz
@given(content=st.binary(max_size=40) | st.builds(with_header, SIZES, st.binary(max_size=64)))
def test_any_bytes_are_read_as_their_header_states_or_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    try:
        values = read_idx(path)
    except MnistCnnError as error:
        assert "\n" not in str(error)
    else:
        assert to_idx(values) == content


@pytest.fixture(scope="module")
def numbered(raw_data: Path) -> Dataset:
    """The real training labels, with each image's own number written into its pixels."""
    labels = read_training_digits(raw_data).labels
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, :4] = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 4)
    return Dataset(images, labels)


def numbers(digits: Dataset) -> set[int]:
    return set(np.ascontiguousarray(digits.images[:, 0, :4]).view(np.uint32).ravel().tolist())


@pytest.mark.parametrize("sizes", [(55_000, 5_000), (50_000, 10_000), (2_000, 500), (10, 10)])
def test_the_parts_are_disjoint_and_stratified(numbered: Dataset, sizes: tuple[int, int]) -> None:
    training, validation = stratified_split(numbered, *sizes, seed=0)
    assert (len(training), len(validation)) == sizes
    assert (len(numbers(training)), len(numbers(validation))) == sizes
    assert numbers(training).isdisjoint(numbers(validation))
    for part, slack in ((validation, 1), (training, 2)):
        exact = np.bincount(numbered.labels) * len(part) / len(numbered)
        assert (np.abs(np.bincount(part.labels, minlength=10) - exact) < slack).all()


def test_the_seed_alone_decides_the_validation_part(numbered: Dataset) -> None:
    first, again, of_more, other = (
        stratified_split(numbered, images, 500, seed)[1]
        for images, seed in ((1_000, 1), (1_000, 1), (50_000, 1), (1_000, 2))
    )
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.images, of_more.images)
    assert numbers(first) != numbers(other)


def test_the_split_of_a_folder_is_that_of_the_settings(raw_data: Path, params: Params) -> None:
    split = params.data.split
    sizes = (split.train_images, split.validation_images)
    expected = stratified_split(read_training_digits(raw_data), *sizes, split.seed)
    for part, other in zip(load_split(raw_data, split), expected, strict=True):
        assert np.array_equal(part.images, other.images)
        assert np.array_equal(part.labels, other.labels)


def test_more_images_than_there_are_is_refused(numbered: Dataset) -> None:
    with pytest.raises(MnistCnnError, match=r"data\.split asks for 60,000 training and 1 "):
        stratified_split(numbered, 60_000, 1, seed=0)
