from pathlib import Path

import numpy as np
import pytest

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn.onnxfile.contract import OUTPUTS
from mnist_cnn.onnxfile.session import open_content, open_model, read_logits, run_batches
from mnist_cnn_train.data.dataset import Dataset


def test_a_file_and_its_content_read_alike(trained_model: Path, holdout_digits: Dataset) -> None:
    images = holdout_digits.images[:50]
    by_file = read_logits(open_model(trained_model), images)
    by_content = read_logits(open_content(trained_model.read_bytes()), images)
    np.testing.assert_array_equal(by_file, by_content)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1_000])
def test_every_batch_size_gives_all_outputs_in_order(
    batch_size: int, trained_model: Path, holdout_digits: Dataset
) -> None:
    session, images = open_model(trained_model), holdout_digits.images[:50]
    logits, probabilities = run_batches(session, OUTPUTS, images, batch_size)
    np.testing.assert_allclose(logits, read_logits(session, images), atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_content_that_is_no_model_is_refused_in_one_line(trained_model: Path) -> None:
    for content in (b"", b"not a model", trained_model.read_bytes()[:20_000]):
        with pytest.raises(MnistCnnError, match="the model is not a usable ONNX model: ") as error:
            open_content(content)
        assert "\n" not in str(error.value)
