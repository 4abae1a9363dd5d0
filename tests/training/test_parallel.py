from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from mnist_cnn_train.model.networks import FastDigitCNN
from mnist_cnn_train.training.parallel import ThreadedGradients

IMAGES = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 10


def loss(network: nn.Module, chosen: Tensor) -> Tensor:
    return functional.cross_entropy(network(IMAGES[chosen]), LABELS[chosen])


def gradients_of(network: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters()]


def linear() -> nn.Module:
    """A network without batch statistics, so that shards do not matter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("images", [1, 2, 7, 32])
def test_shards_add_up_to_the_gradient_of_the_whole_batch(threads: int, images: int) -> None:
    chosen = torch.arange(images)
    whole, shared = linear(), linear()
    expected = loss(whole, chosen)
    expected.backward()
    with ThreadedGradients(shared, threads) as gradients:
        for _ in range(2):  # the second replaces the first
            found = gradients.backward(loss, chosen)
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(gradients_of(shared), gradients_of(whole))


def test_one_thread_gives_the_bits_of_a_plain_backward() -> None:
    torch.manual_seed(0)
    plain = FastDigitCNN()
    twin = deepcopy(plain)
    loss(plain, torch.arange(32)).backward()
    with ThreadedGradients(twin, 1) as gradients:
        gradients.backward(loss, torch.arange(32))
    torch.testing.assert_close(gradients_of(twin), gradients_of(plain), rtol=0, atol=0)


def test_every_thread_sees_the_weights_that_the_optimizer_sets() -> None:
    network = linear()
    optimizer = SGD(network.parameters(), lr=0.5)
    with ThreadedGradients(network, 2) as gradients:
        losses = []
        for _ in range(20):
            losses.append(gradients.backward(loss, torch.arange(32)).item())
            optimizer.step()
        assert losses[-1] < losses[0] / 2
        assert losses[-1] > loss(network, torch.arange(32)).item()


def test_each_shard_is_normalized_alone_and_the_first_keeps_the_statistics() -> None:
    network, alone = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def squares(layer: nn.Module, chosen: Tensor) -> Tensor:
        return layer(IMAGES[chosen]).square().mean()

    with ThreadedGradients(network, 2) as gradients:
        gradients.backward(squares, torch.arange(32))
    squares(alone, torch.arange(16))
    assert torch.equal(network.running_mean, alone.running_mean)


def test_an_error_on_any_thread_is_raised() -> None:
    def fails_on_the_last(network: nn.Module, chosen: Tensor) -> Tensor:
        if 31 in chosen:
            raise ValueError("the last image")
        return loss(network, chosen)

    failure = pytest.raises(ValueError, match="the last image")
    with failure, ThreadedGradients(linear(), 2) as gradients:
        gradients.backward(fails_on_the_last, torch.arange(32))
