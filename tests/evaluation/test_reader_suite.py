from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import logit

from mnist_cnn_train.data.catalog import HELD_OUT_FONTS
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.download.fonts import write_fonts
from mnist_cnn_train.evaluation.picture_suite import dejavu_fonts
from mnist_cnn_train.evaluation.reader_suite import (
    METRICS,
    evaluate_reader,
    rejection_scores,
    separation,
)

Floats = npt.NDArray[np.float32]


def test_scores_that_separate_fully_and_not_at_all() -> None:
    digits, others = np.arange(100, dtype=np.float32), np.arange(200, 300, dtype=np.float32)
    assert separation(digits, others) == {"flagged": 1, "auroc": 1, "fpr95": 0}
    alike = separation(digits, digits)
    assert alike["auroc"] == 0.5
    assert alike["flagged"] == pytest.approx(0.01)
    assert alike["fpr95"] == pytest.approx(0.95, abs=0.01)


def test_the_score_is_the_log_odds_of_the_eleventh_class_or_the_negated_largest_logit() -> None:
    logits = np.log(np.array([[0.05] * 8 + [0.1, 0.2, 0.3]], np.float32))
    assert rejection_scores(logits) == pytest.approx(logit(0.3))
    assert rejection_scores(logits[:, :10]) == pytest.approx(-np.log(0.2))


@pytest.mark.slow
def test_each_metric_is_a_fraction_and_a_network_that_knows_ink_alone_is_a_poor_reader(
    test_digits: Dataset, tmp_path: Path
) -> None:
    font = Path(dejavu_fonts()[0]).read_bytes()
    write_fonts(dict.fromkeys(HELD_OUT_FONTS, font), tmp_path / "fonts.zip")

    def read(images: npt.NDArray[np.uint8]) -> Floats:
        ink = images.mean(axis=(1, 2), dtype=np.float32)
        return np.stack([ink] * 11, axis=1)

    few = test_digits.take(np.arange(100))
    found = evaluate_reader(read, few, tmp_path / "fonts.zip", count=10)
    assert found.keys() == set(METRICS)
    assert all(0 <= value <= 1 for value in found.values())
    assert found["held_out_font_accuracy"] == pytest.approx(0.1)
