import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from mnist_cnn.core.files import sha256
from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation import corruption_suite, picture_suite
from mnist_cnn_train.evaluation.corruption_suite import evaluate_corruptions
from mnist_cnn_train.evaluation.figures import plot_curves, plot_misclassified, plot_reliability
from mnist_cnn_train.evaluation.metrics import Evaluation, evaluate
from mnist_cnn_train.evaluation.suite_figures import plot_pictures, plot_robustness
from mnist_cnn_train.experiments.figures import plot_seeds

Call = tuple[Axes, tuple[Any, ...], dict[str, Any]]
Drawn = dict[str, list[Call]]

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
        assert picture.width <= 810  # of a page on GitHub
        assert picture.height <= 1080  # of a screen
        assert picture.convert("L").getextrema()[0] < 100  # something dark is drawn
        assert picture.info.keys() <= {"dpi"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "figure.png"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What is given for each line, row of error bars, row of dots and title, by its method."""
    calls: Drawn = {"plot": [], "errorbar": [], "scatter": [], "set_title": []}
    for name, noted in calls.items():
        method = getattr(Axes, name)

        def noting(
            axes: Axes, *values: Any, method: Any = method, noted: list = noted, **options: Any
        ) -> Any:
            noted.append((axes, values, options))
            return method(axes, *values, **options)

        monkeypatch.setattr(Axes, name, noting)
    return calls


def points(calls: list[Call]) -> list[tuple[list[float], list[float]]]:
    return [(list(x), list(y)) for _, (x, y, *_), _ in calls]


def test_the_curves_are_those_of_the_log(drawn: Drawn, path: Path) -> None:
    plot_curves(HISTORY, path)
    assert_is_a_picture(path)
    train_loss, validation_loss, error = points(drawn["plot"])
    assert train_loss == (HISTORY["epoch"], HISTORY["train_loss"])
    assert validation_loss == (HISTORY["epoch"], HISTORY["validation_loss"])
    assert error == (HISTORY["epoch"], pytest.approx([10, 1, 0]))


def test_the_reliability_points_are_the_bins(
    drawn: Drawn, test_digits: Dataset, path: Path
) -> None:
    evaluation = judged(test_digits, 50)
    plot_reliability(evaluation, path)
    assert_is_a_picture(path)
    filled = [bin for bin in evaluation.calibration if bin.images]
    expected = ([bin.confidence for bin in filled], [bin.accuracy for bin in filled])
    assert expected in points(drawn["plot"] + drawn["errorbar"] + drawn["scatter"])


def test_curves_of_a_single_epoch_show_it(path: Path) -> None:
    plot_curves({name: values[:1] for name, values in HISTORY.items()}, path)
    with Image.open(path) as picture:
        blue = (np.asarray(picture.convert("RGB")) == (0x25, 0x63, 0xA8)).all(axis=2)
    assert blue[:, blue.shape[1] // 2 :].any()  # the half without a legend


def test_curves_of_a_final_fit_lack_what_was_not_watched(path: Path) -> None:
    unwatched = [math.nan] * len(HISTORY["epoch"])
    plot_curves({**HISTORY, "validation_loss": unwatched, "validation_accuracy": unwatched}, path)
    assert_is_a_picture(path)


def test_a_study_is_drawn_with_every_seed_its_mean_and_interval(drawn: Drawn, path: Path) -> None:
    accuracy = {"mean": 0.995, "std": 0.001, "low_95": 0.994, "high_95": 0.996}
    seeds = {"0": 0.994, "1": 0.996}
    plot_seeds({"default": {"accuracy": {**accuracy, "seeds": seeds}}}, path)
    assert_is_a_picture(path)
    assert points(drawn["scatter"]) == [(pytest.approx([99.4, 99.6]), [0, 0])]
    assert points(drawn["errorbar"]) == [([pytest.approx(99.5)], [0])]
    ((_, _, options),) = drawn["errorbar"]
    assert options["xerr"] == [[pytest.approx(0.1)], [pytest.approx(0.1)]]


@pytest.mark.filterwarnings("error")
def test_a_model_without_errors_is_drawn_without_complaint(
    test_digits: Dataset, path: Path
) -> None:
    perfect = judged(test_digits, 0)
    assert [bin.images for bin in perfect.calibration if bin.images] == [10_000]
    plot_misclassified(perfect, test_digits, path)
    assert_is_a_picture(path)
    plot_reliability(perfect, path)
    assert_is_a_picture(path)
    plot_curves({**HISTORY, "validation_accuracy": [1.0, 1.0, 1.0]}, path)
    assert_is_a_picture(path)


@pytest.mark.slow
def test_the_suites_fit_on_a_screen(
    recognizer: Recognizer, test_digits: Dataset, path: Path
) -> None:
    plot_pictures(picture_suite.examples(recognizer, test_digits, 8), path)
    assert_is_a_picture(path)
    few = test_digits.take(np.arange(40))
    logits = np.zeros((len(few), 10), np.float32)
    report = evaluate_corruptions(lambda images: (logits, None), few)
    plot_robustness(report, corruption_suite.examples(few), path)
    assert_is_a_picture(path)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [1, 8, 9, 300])
def test_a_gallery_has_any_number_of_mistakes(wrong: int, test_digits: Dataset, path: Path) -> None:
    plot_misclassified(judged(test_digits, wrong), test_digits, path)
    assert_is_a_picture(path)


@pytest.mark.parametrize("names", [("$\\frac$", "a$b$"), ("T-shirt/top", "x" * 80)], ids=str)
def test_the_gallery_has_room_for_any_names(names: tuple[str, ...], path: Path) -> None:
    labels = np.arange(24) % 2
    digits = Dataset(np.zeros((24, 28, 28), np.uint8), labels, names)
    wrong = np.eye(2, dtype=np.float32)[1 - labels]
    plot_misclassified(evaluate(wrong, labels, 15, names), digits, path)
    assert_is_a_picture(path)


def test_the_gallery_shows_the_wrongly_read(drawn: Drawn, test_digits: Dataset, path: Path) -> None:
    plot_misclassified(judged(test_digits, 3), test_digits, path)
    assert len(drawn["set_title"]) == 3
    for index, (axes, (title,), _) in enumerate(drawn["set_title"]):
        assert np.array_equal(axes.images[0].get_array(), test_digits.images[index])
        label = test_digits.labels[index]
        assert title.startswith(f"{label} → {(label + 1) % 10} (0.9")


def test_the_same_figures_have_the_same_bytes(test_digits: Dataset, path: Path) -> None:
    digests = set()
    for _ in range(2):
        plot_misclassified(judged(test_digits, 5), test_digits, path)
        digests.add(sha256(path))
    assert len(digests) == 1
