from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.pipeline.params import Params
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.loop import Trained, train

Sets = tuple[Dataset, Dataset]


class Fragile(Checkpoint):
    """Ends the training once it has kept the state of some epochs."""

    def __init__(self, path: Path, epochs: int) -> None:
        super().__init__(path)
        self.epochs = epochs

    def save(self, state: Mapping[str, Tensor]) -> None:
        super().save(state)
        self.epochs -= 1
        if not self.epochs:
            raise KeyboardInterrupt


def params_with(params: Params, **changes: object) -> Params:
    content = params.model_dump()
    content["train"] |= {"epochs": 3, "batch_size": 100, "ema_decay": 0.9}
    for key, value in changes.items():
        content["model" if key == "dropout" else "train"][key] = value
    return Params.model_validate(content)


def weights(trained: Trained) -> list[Tensor]:
    return list(trained.network.state_dict().values())


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dropout": 0.2, "ema_decay": 0.0},
        {"optimizer": "adamw", "learning_rate": 0.01, "threads": 2, "hard_example_fraction": 0.5},
        {
            "augmentation": dict.fromkeys(("rotation", "shear", "translation", "scale"), 0)
            | {"corruption": 0.5}
        },
        {"train_on_validation": True, "schedule": "constant", "momentum": 0.0},
    ],
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    changes: dict[str, object],
    epochs: int,
    small_digits: Sets,
    params: Params,
    tmp_path: Path,
) -> None:
    settings = params_with(params, **changes)
    training, validation = small_digits
    watched = None if settings.train.train_on_validation else validation
    path = tmp_path / "state"
    arguments = (training, watched, settings.model, settings.train)
    expected = train(*arguments)
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, Fragile(path, epochs))
    resumed = train(*arguments, Checkpoint(path))
    assert resumed.log == expected.log
    for found, wanted in zip(weights(resumed), weights(expected), strict=True):
        assert torch.equal(found, wanted)


def test_a_finished_training_is_not_run_again(
    small_digits: Sets, params: Params, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = params_with(params, epochs=1, unaugmented_epochs=0)
    arguments = (*small_digits, settings.model, settings.train, Checkpoint(tmp_path / "state"))
    first = train(*arguments)
    with caplog.at_level("INFO", "mnist_cnn_train"):
        again = train(*arguments)
    assert caplog.messages == ["going on after epoch 1"]
    assert again.log == first.log
    for found, wanted in zip(weights(again), weights(first), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.fault
def test_a_damaged_state_is_reported_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state"
    checkpoint = Checkpoint(path)
    checkpoint.save({"weights": torch.arange(10.0)})
    whole = path.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        caplog.clear()
        assert checkpoint.load() is None
        assert caplog.messages == [f"{path} is damaged; training starts again"]
    path.write_bytes(whole[:20])
    assert checkpoint.load() is None


def test_a_state_is_kept_until_it_is_removed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "folder" / "state")
    assert checkpoint.load() is None
    checkpoint.save({"a": torch.ones(2), "b": torch.tensor(3)})
    state = checkpoint.load()
    assert state is not None
    assert state["a"].tolist() == [1, 1]
    assert state["b"].item() == 3
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


def test_other_settings_or_data_have_another_state(small_digits: Sets) -> None:
    training, validation = small_digits
    states = [
        Checkpoint.of(["a"], [training]),
        Checkpoint.of(["b"], [training]),
        Checkpoint.of(["a"], [validation]),
        Checkpoint.of(["a"], [training, validation]),
    ]
    assert len({state.path for state in states}) == 4
    assert Checkpoint.of(["a"], [training]).path == states[0].path
