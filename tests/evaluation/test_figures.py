import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from mnist_cnn.core.files import sha256
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.figures import plot_curves, plot_misclassified, plot_reliability
from mnist_cnn_train.evaluation.metrics import Evaluation, evaluate
from mnist_cnn_train.experiments.figures import plot_seeds

HISTORY = {
    "epoch": [1, 2, 3],
    "train_loss": [0.5, 0.2, 0.1],
    "validation_loss": [0.6, 0.1, 0.05],
    "validation_accuracy": [0.9, 0.99, 1.0],  # no error at all, on a logarithmic axis
}


def judged(digits: Dataset, wrong: int) -> Evaluation:
    logits = 5 * np.eye(10, dtype=np.float32)[digits.labels]
    surest_first = np.linspace(1.2, 1, wrong, dtype=np.float32).reshape(-1, 1)
    logits[:wrong] = surest_first * np.roll(logits[:wrong], 1, axis=1)
    return evaluate(logits, digits.labels, bins=15)


def assert_is_a_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 50
        assert picture.convert("L").getextrema()[0] < 100  # something dark is drawn
        assert picture.info.keys() <= {"dpi"}


def test_curves_are_drawn(tmp_path: Path) -> None:
    plot_curves(HISTORY, tmp_path / "curves.png")
    assert_is_a_picture(tmp_path / "curves.png")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[float], list[float]]]:
    """The points of each line, row of error bars and row of dots, in the order they are drawn."""
    points: list[tuple[list[float], list[float]]] = []
    for name in ("plot", "errorbar", "scatter"):
        method = getattr(Axes, name)

        def noting(
            axes: Axes, x: Any, y: Any, *rest: Any, method: Any = method, **options: Any
        ) -> Any:
            points.append((list(x), list(y)))
            return method(axes, x, y, *rest, **options)

        monkeypatch.setattr(Axes, name, noting)
    return points


def test_the_curves_are_those_of_the_log(
    drawn: list[tuple[list[float], list[float]]], tmp_path: Path
) -> None:
    plot_curves(HISTORY, tmp_path / "curves.png")
    train_loss, validation_loss, error = drawn
    assert train_loss == (HISTORY["epoch"], HISTORY["train_loss"])
    assert validation_loss == (HISTORY["epoch"], HISTORY["validation_loss"])
    assert error[0] == HISTORY["epoch"]
    assert error[1] == pytest.approx([10, 1, 0])


def test_the_reliability_points_are_those_of_the_bins(
    drawn: list[tuple[list[float], list[float]]], test_digits: Dataset, tmp_path: Path
) -> None:
    evaluation = judged(test_digits, 50)
    plot_reliability(evaluation, tmp_path / "reliability.png")
    filled = [bin for bin in evaluation.calibration if bin.images]
    confidence = [bin.confidence for bin in filled]
    assert (confidence, [bin.accuracy for bin in filled]) in drawn


def test_curves_of_a_single_epoch_show_it(tmp_path: Path) -> None:
    history = {name: values[:1] for name, values in HISTORY.items()}
    plot_curves(history, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        blue = (np.asarray(picture.convert("RGB")) == (0x25, 0x63, 0xA8)).all(axis=2)
    assert blue[:, blue.shape[1] // 2 :].any()  # the half without a legend


def test_curves_of_a_final_fit_lack_what_was_not_watched(tmp_path: Path) -> None:
    unwatched = [math.nan] * len(HISTORY["epoch"])
    history = {**HISTORY, "validation_loss": unwatched, "validation_accuracy": unwatched}
    plot_curves(history, tmp_path / "curves.png")
    assert_is_a_picture(tmp_path / "curves.png")


def test_a_study_is_drawn_with_every_seed_its_mean_and_interval(
    drawn: list[tuple[list[float], list[float]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[Any] = []
    errorbar = Axes.errorbar

    def noting(axes: Axes, *points: Any, xerr: Any, **options: Any) -> Any:
        sides.append(xerr)
        return errorbar(axes, *points, xerr=xerr, **options)

    monkeypatch.setattr(Axes, "errorbar", noting)
    accuracy = {"mean": 0.995, "std": 0.001, "low_95": 0.994, "high_95": 0.996}
    seeds = {"0": 0.994, "1": 0.996}
    plot_seeds({"default": {"accuracy": {**accuracy, "seeds": seeds}}}, tmp_path / "study.png")
    assert_is_a_picture(tmp_path / "study.png")
    seeds_drawn, mean_drawn = drawn
    assert seeds_drawn == (pytest.approx([99.4, 99.6]), [0, 0])
    assert mean_drawn == ([pytest.approx(99.5)], [0])
    assert sides == [[[pytest.approx(0.1)], [pytest.approx(0.1)]]]


def test_the_reliability_diagram_is_drawn(test_digits: Dataset, tmp_path: Path) -> None:
    plot_reliability(judged(test_digits, 50), tmp_path / "reliability.png")
    assert_is_a_picture(tmp_path / "reliability.png")


@pytest.mark.parametrize("wrong", [0, 1, 12, 13, 300])
def test_the_gallery_holds_any_number_of_mistakes(
    wrong: int, test_digits: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "gallery.png"
    plot_misclassified(judged(test_digits, wrong), test_digits, path)
    assert_is_a_picture(path)


@pytest.mark.parametrize("names", [("$\\frac$", "a$b$"), ("T-shirt/top", "x" * 80)], ids=str)
def test_the_gallery_has_room_for_any_names(names: tuple[str, ...], tmp_path: Path) -> None:
    labels = np.arange(24) % 2
    digits = Dataset(np.zeros((24, 28, 28), np.uint8), labels, names)
    wrong = np.eye(2, dtype=np.float32)[1 - labels]
    plot_misclassified(evaluate(wrong, labels, 15, names), digits, tmp_path / "gallery.png")
    assert_is_a_picture(tmp_path / "gallery.png")


def test_the_gallery_shows_the_very_digits_that_are_read_wrongly(
    test_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[np.ndarray, str]] = []
    set_title = Axes.set_title

    def noting(axes: Axes, title: str, **options: object) -> object:
        shown.append((np.asarray(axes.images[0].get_array()), title))
        return set_title(axes, title, **options)

    monkeypatch.setattr(Axes, "set_title", noting)
    plot_misclassified(judged(test_digits, 3), test_digits, tmp_path / "gallery.png")
    assert len(shown) == 3
    for index, (image, title) in enumerate(shown):
        assert np.array_equal(image, test_digits.images[index])
        label = test_digits.labels[index]
        assert title.startswith(f"{label} → {(label + 1) % 10} (0.9")


def test_the_same_figures_have_the_same_bytes(test_digits: Dataset, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plot_misclassified(judged(test_digits, 5), test_digits, tmp_path / name)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
