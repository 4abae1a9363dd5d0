from pathlib import Path

import pytest
import torch
from conftest import flipped

from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.pipeline.params import Params, changed
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.log import EpochLog
from mnist_cnn_train.training.loop import train

Sets = tuple[Dataset, Dataset]
Log = pytest.LogCaptureFixture


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.dropout": 0.2, "train.ema_decay": 0.0},
        {"train.optimizer": "adamw", "train.learning_rate": 0.01, "train.threads": 2}
        | {"train.hard_example_fraction": 0.5},
        {f"train.augmentation.{name}": 0 for name in ("rotation", "shear", "translation", "scale")}
        | {"train.augmentation.corruption": 0.5},
        {"train.train_on_validation": True, "train.schedule": "constant", "train.momentum": 0.0},
    ],
    ids=["default", "dropout", "adamw", "corruption", "final"],
)
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    changes: dict[str, object],
    epochs: int,
    small_digits: Sets,
    params: Params,
    tmp_path: Path,
    caplog: Log,
) -> None:
    short = {"train.epochs": 3, "train.batch_size": 100, "train.ema_decay": 0.9}
    settings = Params.model_validate(changed(params.model_dump(), {**short, **changes}))
    training, validation = small_digits
    watched = None if settings.train.train_on_validation else validation
    arguments = (training, watched, settings.model, settings.train)
    path, seen = tmp_path / "state", []

    def interrupt(entry: EpochLog) -> None:
        seen.append(entry)
        if len(seen) == epochs:
            raise KeyboardInterrupt

    expected = train(*arguments)
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, Checkpoint(path), after_epoch=interrupt)
    with caplog.at_level("INFO", "mnist_cnn_train"):
        resumed = train(*arguments, Checkpoint(path), after_epoch=interrupt)
    assert caplog.messages[0] == f"resuming after epoch {epochs}"
    assert len(caplog.messages) == 1 + 3 - epochs  # a finished training is not run again
    assert resumed.log == expected.log == seen
    weights = (resumed.network.state_dict(), expected.network.state_dict())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.fault
def test_a_damaged_state_is_told_and_not_used(tmp_path: Path, caplog: Log) -> None:
    path = tmp_path / "state"
    checkpoint = Checkpoint(path)
    checkpoint.save({"weights": torch.arange(10.0)})
    whole = path.read_bytes()
    damaged = [flipped(whole, place) for place in (0, len(whole) // 2, -1)]
    for content in (*damaged, whole[:20]):
        path.write_bytes(content)
        caplog.clear()
        assert checkpoint.load() is None
        assert caplog.messages == [f"{path} is damaged; training starts again"]


def test_a_state_is_kept_until_it_is_removed(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "folder" / "state")
    assert checkpoint.load() is None
    state = {"a": torch.ones(2), "b": torch.tensor(3)}
    checkpoint.save(state)
    torch.testing.assert_close(checkpoint.load(), state)
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


def test_other_settings_or_data_have_another_state(small_digits: Sets) -> None:
    one, other = small_digits
    kinds = [(["a"], [one]), (["b"], [one]), (["a"], [other]), (["a"], [one, other])]
    paths = [Checkpoint.of(*kind).path for kind in kinds]
    assert len(set(paths)) == 4
    assert Checkpoint.of(*kinds[0]).path == paths[0]


def test_a_state_of_a_gpu_is_not_used_without_it(
    small_digits: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `train.device` auto, the settings are the same."""
    paths = [Checkpoint.of(["a"], small_digits).path]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gpu in ("one", "another"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=gpu: name)
        paths.append(Checkpoint.of(["a"], small_digits).path)
    assert len(set(paths)) == 3
