import numpy as np

from mnist_cnn.reader.recognizer import Recognizer
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.fooled import find_fooled


def test_pictures_that_one_network_misreads_are_found(
    recognizer: Recognizer, holdout_digits: Dataset
) -> None:
    some = holdout_digits.take(np.arange(0, 1_000, 10))
    found = find_fooled(recognizer, Recognizer(), some, each=2)
    assert {len(examples) for examples in found.values()} <= {1, 2}
    for one in (one for examples in found.values() for one in examples):
        assert one.plain.label != one.truth if one.truth else one.plain.warning is None
    readings = [one for name, examples in found.items() if name != "no digit" for one in examples]
    assert sum(one.reader.label == one.truth for one in readings) > len(readings) / 2
