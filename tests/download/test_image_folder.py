import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import SMALL, Project, copy_files
from PIL import Image, ImageDraw

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.reader.recognizer import NO_CLASS, UNSURE_CLASS, Recognizer
from mnist_cnn_train.download.image_folder import read_image_folder

CLASSES = ("ring", "ä b", "10", "9")


def draw(kind: str, rng: np.random.Generator) -> Image.Image:
    """A shape of a class, somewhere on paper."""
    picture = Image.new("L", (60, 60), 250)
    pen = ImageDraw.Draw(picture)
    x, y = rng.integers(12, 20, size=2).tolist()
    if kind == "ring":
        pen.ellipse((x, y, x + 26, y + 26), outline=0, width=4)
    elif kind == "ä b":
        pen.line((x, y, x + 26, y + 26), fill=0, width=4)
        pen.line((x, y + 26, x + 26, y), fill=0, width=4)
    else:
        pen.rectangle((x, y, x + (4 if kind == "10" else 26), y + 26), fill=0)
    return picture


def fill(folder: Path, pictures: int) -> None:
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(pictures):
            draw(kind, rng).save(folder / kind / f"{number}.png")
    (folder / "README.md").write_text("not a class")
    (folder / ".hidden").mkdir()


def test_folders_become_classes_and_each_has_its_share_of_test_images(tmp_path: Path) -> None:
    fill(tmp_path, pictures=10)
    training, test = read_image_folder(tmp_path, test_fraction=0.2)
    assert training.names == test.names == ("9", "10", "ring", "ä b")
    assert np.bincount(training.labels).tolist() == [8] * 4
    assert np.bincount(test.labels).tolist() == [2] * 4
    assert training.images.shape == (32, 28, 28)
    assert training.images.dtype == np.uint8
    assert (training.images.max(axis=(1, 2)) > 200).all()  # ink is light, as in MNIST
    again, _ = read_image_folder(tmp_path, test_fraction=0.2)
    assert np.array_equal(again.images, training.images)


def test_what_cannot_be_used_is_named_each_in_a_line(tmp_path: Path) -> None:
    fill(tmp_path, pictures=6)
    (tmp_path / "ring/0.png").write_bytes(b"no picture")
    Image.new("L", (40, 40), 255).save(tmp_path / "9/blank.png")
    for name in ("few", "a,b"):
        (tmp_path / name).mkdir()
    for name in ("lost.png", "few/1.png"):
        shutil.copy(tmp_path / "9/1.png", tmp_path / name)
    with pytest.raises(MnistCnnError) as refusal:
        read_image_folder(tmp_path, test_fraction=0.2)
    told = str(refusal.value)
    assert len(told.splitlines()) == 6
    assert f"{tmp_path}/lost.png is of no class: move it into the folder of one" in told
    assert f"  {tmp_path}/ring/0.png: is not a picture in a format" in told
    assert f"{tmp_path}/9/blank.png: no ink was found; remove it" in told
    assert f"{tmp_path}/few has 1 pictures; it needs at least 5" in told
    assert "'a,b' cannot be a class: rename it without commas" in told


@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes_are_refused(classes: int, tmp_path: Path) -> None:
    for number in range(classes):
        (tmp_path / str(number)).mkdir()
    with pytest.raises(MnistCnnError, match=f"at least two classes, .*; it has {classes}"):
        read_image_folder(tmp_path, test_fraction=0.2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline's first run on drawn pictures."""
    project = copy_files(tmp_path_factory.mktemp("own"))
    fill(project.folder / "data/own", pictures=60)
    sizes = {"data.split.train_images": 160, "data.split.validation_images": 32}
    training = {"train.batch_size": 16, "train.epochs": 6, "synthesize.form_digits": 0}
    project.set(**{**SMALL, **sizes, **training, "export.max_int8_accuracy_drop": 0.2})
    project.run("dvc", "repro")
    return project


@pytest.mark.slow
def test_the_pipeline_learns_the_users_own_classes(project: Project) -> None:
    metrics = json.loads((project.folder / "metrics/accuracy.json").read_text())
    assert metrics["images"] == 48
    assert metrics["accuracy"] > 0.9
    assert list(metrics["accuracy_per_class"]) == ["9", "10", "ring", "ä b"]
    for name in ("mnist_cnn", "mnist_cnn.int8"):
        model = onnx.load(project.folder / f"models/{name}.onnx")
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert properties["labels"] == "9,10,ring,ä b"
        assert properties["dataset"] == "pictures of the user's own"
    picture = project.folder / "new.png"
    draw("ä b", np.random.default_rng(1)).save(picture)
    model = ("--model", "models/mnist_cnn.onnx")
    assert "ä b" in project.run("mnist-cnn", "predict", "new.png", *model).stdout


@pytest.mark.slow
def test_new_pictures_of_the_users_own_are_read_and_mostly_not_doubted(project: Project) -> None:
    rng = np.random.default_rng(1)
    drawn = [kind for kind in CLASSES for _ in range(30)]
    recognizer = Recognizer(project.folder / "models/mnist_cnn.onnx")
    predictions = list(recognizer.predict_many(draw(kind, rng) for kind in drawn))
    right = [prediction.label == kind for prediction, kind in zip(predictions, drawn, strict=True)]
    assert np.mean(right) > 0.9
    doubts = [prediction.warning for prediction in predictions if prediction.warning]
    assert len(doubts) < 0.2 * len(drawn)  # each bound rests on six pictures
    assert set(doubts) <= {NO_CLASS, UNSURE_CLASS}


@pytest.mark.slow
def test_a_new_picture_runs_the_pipeline_again(project: Project) -> None:
    assert project.repro() == []
    draw("ring", np.random.default_rng(2)).save(project.folder / "data/own/ring/new.png")
    assert "Running stage 'download'" in project.run("dvc", "repro", "download").stdout
