from typing import Any

from mnist_cnn_train.experiments.dvc import arguments


def test_arguments_are_those_of_dvc() -> None:
    changes: dict[str, Any] = {"train.final_fit": True, "train.optimizer": "adamw", "a.b": 1e-4}
    assert arguments(changes) == [
        *("-S", "train.final_fit=true"),
        *("-S", "train.optimizer=adamw"),
        *("-S", "a.b=0.0001"),
    ]
