from pathlib import Path

import numpy as np
import pytest

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.download.fonts import write_fonts
from mnist_cnn_train.evaluation.picture_suite import dejavu_fonts
from mnist_cnn_train.pipeline.params import Synthesize
from mnist_cnn_train.synthetic.build import synthesize

Sets = tuple[Dataset, Dataset]

NOTHING = Synthesize(font_digits=0, form_digits=0, redrawn_digits=0, non_digits=0, seed=0)


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fonts") / "fonts.zip"
    write_fonts({Path(font).stem: Path(font).read_bytes() for font in dejavu_fonts()}, path)
    return path


def drawn(digits: Dataset, fonts: Path, **counts: int) -> Dataset:
    return synthesize(digits, fonts, NOTHING.model_copy(update=counts))


@pytest.mark.parametrize(
    ("kind", "accuracy"), [("font_digits", 0.95), ("form_digits", 0.8), ("redrawn_digits", 0.8)]
)
def test_synthetic_digits_are_read_as_their_labels(
    kind: str, accuracy: float, small_digits: Sets, fonts: Path, recognizer: Recognizer
) -> None:
    found = drawn(small_digits[0], fonts, **{kind: 100})
    assert found.images.shape == (100, 28, 28)
    read = [prediction.label for prediction in recognizer.classify(found.images)]
    assert np.mean([read[place] == str(found.labels[place]) for place in range(100)]) >= accuracy


def test_non_digits_have_a_label_of_their_own(small_digits: Sets, fonts: Path) -> None:
    found = drawn(small_digits[0], fonts, form_digits=10, non_digits=100)
    assert (found.labels[:10] < 10).all()
    assert (found.labels[10:] == 10).all()
    assert len(found) == 110
    assert found.names[10] == "not a digit"


def test_one_seed_draws_the_same_and_another_one_others(small_digits: Sets, fonts: Path) -> None:
    counts = dict.fromkeys(("font_digits", "form_digits", "redrawn_digits", "non_digits"), 20)
    first, again, other = (
        drawn(small_digits[0], fonts, seed=seed, **counts).images for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_nothing_is_drawn_by_default(small_digits: Sets, fonts: Path) -> None:
    assert len(drawn(small_digits[0], fonts)) == 0


def test_a_data_set_of_other_things_is_refused(small_digits: Sets, fonts: Path) -> None:
    digits = small_digits[0]
    clothes = Dataset(digits.images, digits.labels, ("shirt", "boot"))
    with pytest.raises(MnistCnnError, match=r"redrawn_digits should be 0: .* shirt, boot, not the"):
        drawn(clothes, fonts, redrawn_digits=1)
