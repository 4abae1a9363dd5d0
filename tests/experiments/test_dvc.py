from typing import Any

from mnist_cnn_train.experiments.dvc import arguments


def test_arguments_are_those_of_dvc() -> None:
    changes: dict[str, Any] = {
        "train.train_on_validation": True,
        "train.optimizer": "adamw",
        "a.b": 1e-4,
    }
    assert arguments(changes) == [
        *("-S", "train.train_on_validation=true"),
        *("-S", "train.optimizer=adamw"),
        *("-S", "a.b=0.0001"),
    ]
