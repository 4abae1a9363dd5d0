from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, AdamW

from mnist_cnn.core.errors import MnistCnnError
from mnist_cnn_train.data.dataset import Dataset
from mnist_cnn_train.evaluation.metrics import evaluate
from mnist_cnn_train.model.networks import DigitCNN, predict_logits
from mnist_cnn_train.pipeline.params import Augmentation, Model, Params, Train
from mnist_cnn_train.training.log import format_epoch
from mnist_cnn_train.training.loop import DivergedError, Trained, train
from mnist_cnn_train.training.setup import learning_rate_factor, make_optimizer, select_device
from mnist_cnn_train.transforms.affine import sample_distortions

BASE = Model(
    architecture="base", not_a_digit=False, dropout=0.0, normalization="fixed", tta_views=1
)

Run = Callable[..., Trained]
Sets = tuple[Dataset, Dataset]
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def recipe(params: Params) -> Train:
    """The project's own recipe, in one short epoch."""
    short = {"epochs": 1, "unaugmented_epochs": 0, "batch_size": 50, "ema_decay": 0.9}
    return params.train.model_copy(update={**short, "device": "cpu"})


@pytest.fixture(scope="module")
def run(small_digits: Sets, recipe: Train) -> Run:
    """A training by a recipe with some changes, on the first `images`, validated with `watched`."""
    training, validation = small_digits

    def trained(
        images: int = 2_000,
        watched: Dataset | None = validation,
        model: Model = BASE,
        **changes: Any,
    ) -> Trained:
        few = training.take(np.arange(images))
        return train(few, watched, model, recipe.model_copy(update=changes))

    return trained


def same(first: Trained, second: Trained) -> bool:
    weights = (one.network.state_dict().values() for one in (first, second))
    return all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_two_epochs_learn_to_classify_with_the_same_bits_each_time(run: Run, threads: int) -> None:
    first, again = (run(epochs=2, threads=threads) for _ in range(2))
    assert same(first, again)
    assert first.log == again.log
    assert [entry.epoch for entry in first.log] == [1, 2]
    assert first.log[1].train_loss < first.log[0].train_loss
    assert first.log[1].validation_accuracy > 0.9


@pytest.mark.slow
def test_another_loss_than_cross_entropy_is_trained_on(small_digits: Sets, recipe: Train) -> None:
    def of_the_wrong_label(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, (labels + 1) % 10)

    training, validation = small_digits
    changed = recipe.model_copy(update={"epochs": 2})
    trained = train(training, validation, BASE, changed, criterion=of_the_wrong_label)
    assert trained.log[-1].validation_accuracy < 0.05


@pytest.mark.slow
def test_the_log_is_of_the_network_that_is_returned(run: Run, small_digits: Sets) -> None:
    trained, validation = run(), small_digits[1]
    logits = predict_logits(trained.network, torch.from_numpy(validation.images)).numpy()
    judged = evaluate(logits, validation.labels, bins=10)
    assert trained.log[-1].validation_accuracy == judged.accuracy
    assert trained.log[-1].validation_loss == pytest.approx(judged.negative_log_likelihood, 1e-5)
    assert not trained.network.training


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
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
        {"model": BASE.model_copy(update={"dropout": 0.5})},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_the_recipe_or_the_model_acts(run: Run, change: dict[str, Any]) -> None:
    assert not same(run(), run(**change))


@pytest.mark.slow
def test_distortions_of_nothing_are_unaugmented_epochs(run: Run) -> None:
    nothing = Augmentation(rotation=0, shear=0, translation=0, scale=0, corruption=0)
    assert same(run(augmentation=nothing), run(unaugmented_epochs=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"rotation": 0.0}, {"shear": 0.0}, {"translation": 0.0}, {"scale": 0.0}, {"corruption": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_augmentation_acts_in_augmented_epochs_alone(run: Run, recipe: Train, change: dict) -> None:
    other = recipe.augmentation.model_copy(update=change)
    plain, changed, again = run(), run(augmentation=other), run(augmentation=other)
    assert same(changed, again)
    assert not same(changed, plain)
    if "corruption" in change:
        assert changed.log[0].train_loss > plain.log[0].train_loss
    assert same(run(unaugmented_epochs=1), run(augmentation=other, unaugmented_epochs=1))


@pytest.mark.slow
def test_validation_images_change_nothing_and_may_be_missing(run: Run, small_digits: Sets) -> None:
    few = small_digits[1].take(np.arange(100))
    watched, fewer, alone = run(), run(watched=few), run(watched=None)
    assert same(watched, fewer)
    assert same(watched, alone)
    assert alone.log[0].train_loss == watched.log[0].train_loss
    assert (alone.log[0].validation_loss, alone.log[0].validation_accuracy) == (None, None)


@pytest.mark.slow
def test_each_epoch_of_each_seed_has_its_own_distortions(run: Run, monkeypatch: Patch) -> None:
    noting = Mock(wraps=sample_distortions)
    monkeypatch.setattr("mnist_cnn_train.training.augmentation.sample_distortions", noting)
    run(epochs=2, seed=5)
    assert [call.args[2] for call in noting.call_args_list] == [(5, 1), (5, 2)]


def test_each_epoch_is_logged_and_none_printed(
    run: Run, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    with caplog.at_level("INFO", "mnist_cnn_train"):
        trained = run(100, epochs=2)
    assert caplog.messages == [format_epoch(entry, 2) for entry in trained.log]
    assert caplog.messages[1].startswith("epoch 2/2: loss ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("images", "change", "place"),
    [
        (200, {}, r"(nan|inf) in epoch 1, step [2-4] of 4; lower train\.learning_rate"),
        (50, {"ema_decay": 0.0}, "nan in epoch 1, step 1 of 1"),
    ],
    ids=["in a step", "by the last step"],
)
def test_a_diverged_loss_names_epoch_and_step(
    run: Run, images: int, change: dict, place: str
) -> None:
    with pytest.raises(DivergedError, match=f"the loss became {place}"):
        run(images, learning_rate=1e30, warmup=0.0, **change)


def test_ema_averages_the_weights_after_each_step_exponentially(
    run: Run, monkeypatch: Patch
) -> None:
    raw: list[list[Tensor]] = []
    step = SGD.step

    def noting(optimizer: SGD, closure: Any = None) -> Any:
        result = step(optimizer, closure)
        groups = (group["params"] for group in optimizer.param_groups)
        raw.append([parameter.detach().clone() for group in groups for parameter in group])
        return result

    monkeypatch.setattr(SGD, "step", noting)
    averaged = run(150, ema_decay=0.8).network
    assert len(raw) == 3
    expected = raw[0]
    for weights in raw[1:]:
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, weights, strict=True)]
    found = sorted((p.detach() for p in averaged.parameters()), key=lambda p: p.ndim <= 1)
    torch.testing.assert_close(found, expected)


def factors(recipe: Train, schedule: str, warmup: float, steps: int) -> list[float]:
    settings = {"schedule": schedule, "warmup": warmup}
    return [*map(learning_rate_factor(recipe.model_copy(update=settings), steps), range(steps))]


def test_the_linear_schedule_rises_to_the_peak_and_falls_to_zero(recipe: Train) -> None:
    found = factors(recipe, "linear", 0.2, 1000)
    assert found[:200] == sorted(found[:200])
    assert found[200] == max(found) == 1
    assert found[200:] == sorted(found[200:], reverse=True)
    assert 0 < found[0] < 0.01
    assert 0 < found[-1] < 0.01
    assert found[600] == pytest.approx(0.5)


def test_the_constant_schedule_rises_to_the_peak_and_stays(recipe: Train) -> None:
    linear, constant = (factors(recipe, name, 0.2, 1000) for name in ("linear", "constant"))
    assert constant == linear[:200] + 800 * [1.0]


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.999])
@pytest.mark.parametrize("steps", [1, 5, 10])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_the_learning_rate_is_never_zero(
    recipe: Train, schedule: str, warmup: float, steps: int
) -> None:
    assert all(0 < factor <= 1 for factor in factors(recipe, schedule, warmup, steps))


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adamw", AdamW)])
def test_biases_and_norms_do_not_decay(recipe: Train, name: str, kind: type) -> None:
    network = DigitCNN()
    optimizer = make_optimizer(network, recipe.model_copy(update={"optimizer": name}))
    assert type(optimizer) is kind
    decayed, rest = (group["params"] for group in optimizer.param_groups)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [names[id(parameter)] for parameter in decayed] == [
        *(f"features.{block}.0.weight" for block in range(3)),
        "classifier.weight",
    ]
    assert len(decayed) + len(rest) == len(names)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [recipe.weight_decay, 0]


@pytest.mark.slow
def test_a_later_epoch_takes_the_images_of_largest_loss(run: Run) -> None:
    every, hardest = (run(epochs=2, hard_example_fraction=part).log[1] for part in (1.0, 0.1))
    assert hardest.train_loss > 2 * every.train_loss


def test_auto_takes_the_best_device_there_is() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
    assert select_device("auto").type == best
    assert select_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_an_absent_device_is_named_with_its_setting() -> None:
    with pytest.raises(MnistCnnError, match=r"train\.device is cuda, but this machine has none"):
        select_device("cuda")
