from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.metrics import evaluate
from mnist_cnn_train.model.networks import DeepDigitCNN, DigitCNN, predict_logits
from mnist_cnn_train.pipeline.params import Augmentation, Model, Params, Train
from mnist_cnn_train.training.checkpoint import Checkpoint
from mnist_cnn_train.training.log import EpochLog, format_epoch
from mnist_cnn_train.training.loop import DivergedError, Trained, train
from mnist_cnn_train.training.setup import learning_rate_factor, make_optimizer, select_device
from mnist_cnn_train.transforms.affine import sample_distortions

BASE = Model(architecture="base", dropout=0.0, normalization="fixed", tta_views=1)


@pytest.fixture(scope="module")
def recipe(params: Params) -> Train:
    """The project's own recipe, in one short epoch."""
    short = {
        "epochs": 1,
        "unaugmented_epochs": 0,
        "batch_size": 50,
        "ema_decay": 0.9,
        "device": "cpu",
    }
    return params.train.model_copy(update=short)


def run(digits: tuple[Dataset, Dataset | None], recipe: Train, **changes: Any) -> Trained:
    return train(*digits, BASE, recipe.model_copy(update=changes))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_two_short_epochs_learn_to_classify(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    trained = run(small_digits, recipe, epochs=2)
    assert [entry.epoch for entry in trained.log] == [1, 2]
    assert trained.log[1].train_loss < trained.log[0].train_loss
    assert trained.log[1].validation_accuracy > 0.9


@pytest.mark.slow
def test_the_log_is_of_the_network_that_is_returned(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    trained = run(small_digits, recipe)
    validation = small_digits[1]
    logits = predict_logits(trained.network, torch.from_numpy(validation.images)).numpy()
    judged = evaluate(logits, validation.labels, bins=10)
    assert trained.log[-1].validation_accuracy == judged.accuracy
    assert trained.log[-1].validation_loss == pytest.approx(judged.negative_log_likelihood, 1e-5)
    assert not trained.network.training


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    first, again = (run(small_digits, recipe) for _ in range(2))
    assert same(first.network, again.network)
    assert first.log == again.log
    assert not same(first.network, run(small_digits, recipe, seed=1).network)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"batch_size": 100},
        {"optimizer": "adamw"},
        {"learning_rate": 0.05},
        {"momentum": 0.8},
        {"schedule": "constant"},
        {"warmup": 0.5},
        {"weight_decay": 0.1},
        {"label_smoothing": 0.1},
        {"ema_decay": 0.0},
        {"unaugmented_epochs": 1},
        {"threads": 2},
    ],
    ids=str,
)
def test_a_change_of_the_recipe_acts(
    small_digits: tuple[Dataset, Dataset], recipe: Train, change: dict[str, Any]
) -> None:
    assert not same(run(small_digits, recipe).network, run(small_digits, recipe, **change).network)


@pytest.mark.slow
def test_dropout_acts(small_digits: tuple[Dataset, Dataset], recipe: Train) -> None:
    with_dropout = train(*small_digits, BASE.model_copy(update={"dropout": 0.5}), recipe)
    assert not same(run(small_digits, recipe).network, with_dropout.network)


@pytest.mark.slow
def test_the_architecture_is_the_one_that_is_asked_for(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    deep = train(*small_digits, BASE.model_copy(update={"architecture": "deep"}), recipe)
    assert isinstance(deep.network, DeepDigitCNN)


@pytest.mark.slow
def test_distortions_of_nothing_are_unaugmented_epochs(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    nothing = Augmentation(rotation=0, shear=0, translation=0, scale=0, corruption=0)
    undistorted = run(small_digits, recipe, augmentation=nothing)
    clean = run(small_digits, recipe, unaugmented_epochs=recipe.epochs)
    assert same(undistorted.network, clean.network)


@pytest.mark.slow
def test_corruption_acts_but_not_in_unaugmented_epochs(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    damage = recipe.augmentation.model_copy(update={"corruption": 0.5})
    damaged, again, plain = (
        run(small_digits, recipe, augmentation=a) for a in (damage, damage, recipe.augmentation)
    )
    assert same(damaged.network, again.network)
    assert not same(damaged.network, plain.network)
    assert damaged.log[0].train_loss > plain.log[0].train_loss
    clean = [
        run(small_digits, recipe, augmentation=a, unaugmented_epochs=recipe.epochs)
        for a in (damage, recipe.augmentation)
    ]
    assert same(clean[0].network, clean[1].network)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rotation", "shear", "translation", "scale"])
def test_every_distortion_acts_but_not_in_unaugmented_epochs(
    small_digits: tuple[Dataset, Dataset], recipe: Train, name: str
) -> None:
    without = recipe.augmentation.model_copy(update={name: 0.0})
    distorted = [run(small_digits, recipe, augmentation=a) for a in (recipe.augmentation, without)]
    assert not same(distorted[0].network, distorted[1].network)
    clean = [
        run(small_digits, recipe, augmentation=a, unaugmented_epochs=1)
        for a in (recipe.augmentation, without)
    ]
    assert same(clean[0].network, clean[1].network)


@pytest.mark.slow
def test_validation_images_change_nothing(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    training, validation = small_digits
    fewer = Dataset(validation.images[:100], validation.labels[:100])
    assert same(run((training, validation), recipe).network, run((training, fewer), recipe).network)


@pytest.mark.slow
def test_each_epoch_of_each_seed_has_its_own_distortions(
    small_digits: tuple[Dataset, Dataset], recipe: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[Sequence[int]] = []

    def noting(count: int, ranges: Augmentation, key: Sequence[int]) -> torch.Tensor:
        keys.append(key)
        return sample_distortions(count, ranges, key)

    monkeypatch.setattr("mnist_cnn_train.training.augmentation.sample_distortions", noting)
    run(small_digits, recipe, epochs=2, seed=5)
    assert keys == [(5, 1), (5, 2)]


@pytest.mark.slow
def test_without_held_out_images_training_is_the_same_and_nothing_is_validated(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    watched, alone = run(small_digits, recipe), run((small_digits[0], None), recipe)
    assert same(watched.network, alone.network)
    assert alone.log[0].train_loss == watched.log[0].train_loss
    assert (alone.log[0].validation_loss, alone.log[0].validation_accuracy) == (None, None)


def test_each_epoch_is_logged_and_nothing_is_printed(
    small_digits: tuple[Dataset, Dataset],
    recipe: Train,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    few = small_digits[0].take(torch.arange(100).numpy()), small_digits[1]
    with caplog.at_level("INFO", "mnist_cnn_train"):
        trained = run(few, recipe, epochs=2)
    assert caplog.messages == [format_epoch(entry, 2) for entry in trained.log]
    assert caplog.messages[1].startswith("epoch 2/2: loss ")
    assert capfd.readouterr() == ("", "")


def test_each_epoch_is_reported_once_and_may_end_the_training(
    small_digits: tuple[Dataset, Dataset], recipe: Train, tmp_path: Path
) -> None:
    few = small_digits[0].take(torch.arange(200).numpy()), small_digits[1]
    settings = recipe.model_copy(update={"epochs": 3})
    seen: list[EpochLog] = []

    def stop_after_two(entry: EpochLog) -> None:
        seen.append(entry)
        if len(seen) == 2:
            raise StopIteration

    checkpoint = Checkpoint(tmp_path / "state")
    with pytest.raises(StopIteration):
        train(*few, BASE, settings, checkpoint, after_epoch=stop_after_two)
    trained = train(*few, BASE, settings, checkpoint, after_epoch=stop_after_two)
    assert seen == trained.log


def test_a_diverged_loss_names_epoch_and_step(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    few = small_digits[0].take(torch.arange(200).numpy()), small_digits[1]
    message = r"the loss became (nan|inf) in epoch 1, step [2-4] of 4; lower train\.learning_rate"
    with pytest.raises(DivergedError, match=message):
        run(few, recipe, learning_rate=1e30, warmup=0.0)


def test_weights_that_the_last_step_broke_are_noticed(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    few = small_digits[0].take(torch.arange(50).numpy()), small_digits[1]
    with pytest.raises(MnistCnnError, match=r"the loss became nan in epoch 1, step 1 of 1"):
        run(few, recipe, learning_rate=1e30, warmup=0.0, ema_decay=0.0)


def test_ema_is_the_exponential_moving_average_of_the_weights_after_each_step(
    small_digits: tuple[Dataset, Dataset], recipe: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = small_digits[0].take(torch.arange(150).numpy()), small_digits[1]
    raw: list[list[torch.Tensor]] = []
    step = SGD.step

    def noting(optimizer: SGD, closure: Any = None) -> Any:
        result = step(optimizer, closure)
        groups = (group["params"] for group in optimizer.param_groups)
        raw.append([parameter.detach().clone() for group in groups for parameter in group])
        return result

    monkeypatch.setattr(SGD, "step", noting)
    averaged = run(few, recipe, ema_decay=0.8).network
    assert len(raw) == 3
    expected = raw[0]
    for weights in raw[1:]:
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, weights, strict=True)]
    found = [p for p in averaged.parameters() if p.ndim > 1]
    found += [p for p in averaged.parameters() if p.ndim <= 1]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.detach(), b)


def test_the_linear_schedule_rises_to_the_peak_and_falls_to_zero(recipe: Train) -> None:
    factor = learning_rate_factor(recipe.model_copy(update={"warmup": 0.2}), 1000)
    factors = [factor(step) for step in range(1000)]
    assert factors[:200] == sorted(factors[:200])
    assert factors[200] == max(factors) == 1
    assert factors[200:] == sorted(factors[200:], reverse=True)
    assert 0 < factors[0] < 0.01
    assert 0 < factors[-1] < 0.01
    assert factors[600] == pytest.approx(0.5)


def test_the_constant_schedule_rises_to_the_peak_and_stays(recipe: Train) -> None:
    linear = recipe.model_copy(update={"warmup": 0.2})
    constant = linear.model_copy(update={"schedule": "constant"})
    expected, factor = learning_rate_factor(linear, 1000), learning_rate_factor(constant, 1000)
    assert [factor(step) for step in range(200)] == [expected(step) for step in range(200)]
    assert {factor(step) for step in range(200, 1000)} == {1.0}


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.999])
@pytest.mark.parametrize("steps", [1, 5, 10])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_the_learning_rate_is_above_zero_in_the_shortest_runs(
    recipe: Train, schedule: str, warmup: float, steps: int
) -> None:
    settings = {"schedule": schedule, "warmup": warmup}
    factor = learning_rate_factor(recipe.model_copy(update=settings), steps)
    assert all(0 < factor(step) <= 1 for step in range(steps))


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adamw", AdamW)])
def test_biases_and_norms_do_not_decay(recipe: Train, name: str, kind: type) -> None:
    network = DigitCNN()
    optimizer = make_optimizer(network, recipe.model_copy(update={"optimizer": name}))
    assert type(optimizer) is kind
    decayed, rest = (group["params"] for group in optimizer.param_groups)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [names[id(parameter)] for parameter in decayed] == [
        "features.0.0.weight",
        "features.1.0.weight",
        "features.2.0.weight",
        "classifier.weight",
    ]
    assert len(decayed) + len(rest) == len(names)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [recipe.weight_decay, 0]


@pytest.mark.slow
def test_a_later_epoch_takes_the_images_of_largest_loss(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    logs = [
        run(small_digits, recipe, epochs=2, hard_example_fraction=fraction).log
        for fraction in (1.0, 0.1)
    ]
    assert logs[1][1].train_loss > 2 * logs[0][1].train_loss


@pytest.mark.slow
def test_two_threads_learn_to_classify_with_the_same_bits_each_time(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    first, again = (run(small_digits, recipe, threads=2, epochs=2) for _ in range(2))
    assert same(first.network, again.network)
    assert first.log[-1].validation_accuracy > 0.9


def test_auto_takes_the_best_device_there_is() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    assert select_device("auto").type == best
    assert select_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_absent_device_is_named_with_its_setting() -> None:
    with pytest.raises(MnistCnnError, match=r"train\.device is cuda, but this machine has none"):
        select_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_a_gpu_trains_deterministically(
    small_digits: tuple[Dataset, Dataset], recipe: Train
) -> None:
    first, again = (run(small_digits, recipe, device="cuda", epochs=2) for _ in range(2))
    assert same(first.network, again.network)
    assert first.log[-1].validation_accuracy > 0.9
