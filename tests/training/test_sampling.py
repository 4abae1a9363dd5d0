import torch

from mnist_cnn_train.pipeline.params import Params, Train
from mnist_cnn_train.training.sampling import EpochSampler, epoch_sizes

CPU = torch.device("cpu")


def recipe_with(params: Params, **changes: object) -> Train:
    return params.train.model_copy(update={"epochs": 3, "batch_size": 2, **changes})


def hard_sampler(recipe: Train) -> EpochSampler:
    """One for five images, which has noted that 1, 3 and 4 have the largest losses."""
    sampler = EpochSampler(5, recipe, CPU)
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [4.0, 0.0], [0.0, 4.0], [0.0, 3.0]])
    sampler.note(torch.arange(5), logits, torch.zeros(5, dtype=torch.long))
    return sampler


def test_epochs_after_the_first_take_the_hardest_fraction(params: Params) -> None:
    assert epoch_sizes(1001, recipe_with(params, hard_example_fraction=0.25)) == [1001, 251, 251]
    assert epoch_sizes(1001, recipe_with(params, hard_example_fraction=1.0)) == [1001] * 3


def test_the_first_epoch_takes_every_image_once_in_batches(params: Params) -> None:
    batches = EpochSampler(5, recipe_with(params), CPU).batches(1)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert sorted(torch.cat(batches).tolist()) == [0, 1, 2, 3, 4]


def test_later_epochs_take_the_images_of_largest_loss_in_any_order(params: Params) -> None:
    recipes = [recipe_with(params, hard_example_fraction=0.6, seed=seed) for seed in range(5)]
    orders = [torch.cat(hard_sampler(recipe).batches(2)).tolist() for recipe in recipes]
    assert all(sorted(order) == [1, 3, 4] for order in orders)
    assert len(set(map(tuple, orders))) > 1


def test_a_seed_repeats_its_order_and_epochs_differ(params: Params) -> None:
    first, again = (EpochSampler(1000, recipe_with(params), CPU) for _ in range(2))
    orders = [torch.cat(first.batches(epoch)) for epoch in (1, 2)]
    assert torch.equal(orders[0], torch.cat(again.batches(1)))
    assert not torch.equal(*orders)


def test_losses_are_noted_only_where_epochs_choose_by_them(params: Params) -> None:
    assert hard_sampler(recipe_with(params, hard_example_fraction=0.6)).sample_losses.all()
    assert not hard_sampler(recipe_with(params, hard_example_fraction=1.0)).sample_losses.any()


def test_steps_are_the_batches_of_all_epochs(params: Params) -> None:
    recipe = recipe_with(params, hard_example_fraction=0.5)
    sampler = EpochSampler(5, recipe, CPU)
    assert sampler.steps == sum(len(sampler.batches(epoch)) for epoch in (1, 2, 3)) == 7
