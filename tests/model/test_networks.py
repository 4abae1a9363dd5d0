import inspect
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import Normalize

import mnist_cnn_train.model.networks
from mnist_cnn.core.mnist import PIXEL_MEAN, PIXEL_STD
from mnist_cnn_train.model.networks import (
    DeepDigitCNN,
    DigitCNN,
    DigitNetwork,
    FastDigitCNN,
    ReaderCNN,
    build,
    predict_logits,
    to_input,
)
from mnist_cnn_train.pipeline.params import Model

Network = type[DigitNetwork]

# Layer, output of one image, parameters.
LAYERS = [
    ("Conv2d", (8, 28, 28), 80),
    ("BatchNorm2d", (8, 28, 28), 16),
    ("MaxPool2d", (8, 14, 14), 0),
    ("ReLU", (8, 14, 14), 0),
    ("Conv2d", (16, 14, 14), 1_168),
    ("BatchNorm2d", (16, 14, 14), 32),
    ("MaxPool2d", (16, 7, 7), 0),
    ("ReLU", (16, 7, 7), 0),
    ("Conv2d", (32, 7, 7), 4_640),
    ("BatchNorm2d", (32, 7, 7), 64),
    ("MaxPool2d", (32, 3, 3), 0),
    ("ReLU", (32, 3, 3), 0),
    ("Dropout2d", (32, 3, 3), 0),
    ("Linear", (10,), 2_890),
]


def test_layers_run_in_the_stated_order_with_the_stated_shapes_and_parameters() -> None:
    network = DigitCNN()
    seen: list[tuple[str, tuple[int, ...], int]] = []

    def note(layer: nn.Module, inputs: object, output: Tensor) -> None:
        count = sum(parameter.numel() for parameter in layer.parameters())
        seen.append((type(layer).__name__, tuple(output.shape[1:]), count))

    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(note)
    network(torch.zeros(2, 1, 28, 28))
    assert seen == LAYERS


NETWORKS = [DigitCNN, FastDigitCNN, DeepDigitCNN, ReaderCNN]
of_each_network = pytest.mark.parametrize("network", NETWORKS[:3])


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(4, 1, 28, 28)


@pytest.mark.parametrize(
    ("network", "parameters"), [*zip(NETWORKS, (8_890, 8_890, 9_802, 9_875), strict=True)]
)
def test_the_documented_parameters_are_right(
    network: Network, parameters: int, images: Tensor
) -> None:
    classes = 11 if network is ReaderCNN else 10
    built = network(classes=classes)
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters
    assert f"{parameters:,}" in inspect.getsource(mnist_cnn_train.model.networks)
    assert built(images).shape == (4, classes)


def test_the_fast_network_does_not_see_the_two_outer_pixels(images: Tensor) -> None:
    network = FastDigitCNN().eval()
    other_border = nn.functional.pad(images[:, :, 2:-2, 2:-2], (2, 2, 2, 2), value=0.5)
    assert torch.equal(network(images), network(other_border))


def test_pooling_before_relu_is_the_same_as_after_it(images: Tensor) -> None:
    network = DigitCNN()
    convolution, norm, pool, relu = network.features[0]
    usual = nn.Sequential(convolution, norm, nn.ReLU(), pool)
    assert isinstance(relu, nn.ReLU)
    results = []
    for block in (network.features[0], usual):
        convolution.zero_grad()
        output = block(images)
        output.square().sum().backward()
        results.append((output, convolution.weight.grad))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("name", "network"), [*zip(["base", "fast", "deep", "reader"], NETWORKS, strict=True)]
)
def test_the_architecture_is_the_one_that_is_asked_for(name: str, network: Network) -> None:
    settings = {"dropout": 0.25, "normalization": "fixed", "tta_views": 5}
    built = build(Model(architecture=name, not_a_digit=False, **settings))
    assert type(built) is network
    assert (
        build(Model(architecture=name, not_a_digit=True, **settings), 7).classifier.out_features
        == 8
    )
    assert (built.dropout.p, built.tta_views) == (0.25, 5)


def test_to_the_readers_network_dark_on_light_is_light_on_dark(images: Tensor) -> None:
    robust = ReaderCNN(normalization="image").eval()
    torch.testing.assert_close(robust(1 - images), robust(images))
    other = DeepDigitCNN(normalization="image").eval()
    assert not torch.allclose(other(1 - images), other(images), atol=1e-3)


def test_normalization_is_part_of_the_network(images: Tensor) -> None:
    network = DigitCNN().eval()
    features = network.features(Normalize(PIXEL_MEAN, PIXEL_STD)(images)).flatten(1)
    torch.testing.assert_close(network(images), network.classifier(features))


@of_each_network
def test_dropout_acts_in_training_only(network: Network, images: Tensor) -> None:
    dropping = network(0.5)
    assert not torch.equal(dropping(images), dropping(images))
    dropping.eval()
    assert torch.equal(dropping(images), dropping(images))


def with_one_view(network: DigitCNN) -> DigitCNN:
    alone = DigitCNN()
    alone.load_state_dict(network.state_dict())
    return alone.train(network.training)


@pytest.mark.parametrize("tta_views", [5, 9])
def test_views_are_averaged_over_moves_of_up_to_a_pixel(tta_views: int, images: Tensor) -> None:
    """Against torch's roll, of digits that keep a pixel away from the edge."""
    network = DigitCNN(tta_views=tta_views).eval()
    inner = nn.functional.pad(images[:, :, 1:-1, 1:-1], (1, 1, 1, 1))
    moves = [move for move in product((-1, 0, 1), repeat=2) if tta_views == 9 or 0 in move]
    expected = [with_one_view(network)(inner.roll(move, dims=(2, 3))) for move in moves]
    assert len(expected) == tta_views
    torch.testing.assert_close(network(inner), torch.stack(expected).mean(0))


def test_views_bring_paper_in_at_the_edges() -> None:
    network = DigitCNN(normalization="fixed", tta_views=5).eval()
    ink = torch.ones(1, 1, 28, 28)
    right, down = (nn.functional.pad(ink, pad)[:, :, :28, :28] for pad in ((1, 0), (0, 0, 1, 0)))
    views = torch.cat([ink, right, right.flip(3), down, down.flip(2)])
    expected = with_one_view(network)(views).mean(0, keepdim=True)
    torch.testing.assert_close(network(ink), expected)


def test_training_sees_one_view(images: Tensor) -> None:
    network = DigitCNN(tta_views=9)
    assert torch.equal(network(images), with_one_view(network)(images))


def test_input_is_scaled_to_one() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    torch.testing.assert_close(to_input(pixels), torch.tensor([0, 0.2, 1]).reshape(3, 1, 1, 1))


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_logits_do_not_depend_on_the_batches(batch_size: int) -> None:
    network = DigitCNN()
    pixels = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8)
    expected = network.eval()(to_input(pixels))
    assert expected.shape == (20, 10)
    found = predict_logits(network, pixels, batch_size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("network", "forward", "first"),
    [
        (DigitCNN, 510_912, 56_448),
        (FastDigitCNN, 376_128, 41_472),
        (DeepDigitCNN, 961_056, 56_448),
    ],
)
def test_an_image_costs_the_stated_work(
    network: Network, forward: int, first: int, images: Tensor
) -> None:
    """Backward, each layer needs the gradients of its weights and, but for the first, its input."""
    with FlopCounterMode(display=False) as counted:
        logits = network()(images)
    assert counted.get_total_flops() == 2 * len(images) * forward
    with FlopCounterMode(display=False) as counted:
        logits.sum().backward()
    assert counted.get_total_flops() == 2 * len(images) * (2 * forward - first)


@of_each_network
def test_normalized_by_image_brightness_and_contrast_do_not_matter(
    network: Network, images: Tensor
) -> None:
    reader = network(normalization="image").eval()
    expected, other = reader(images), 0.5 * images + 0.3
    assert torch.allclose(reader(other), expected, atol=0.01)
    assert not torch.allclose(network().eval()(other), expected, atol=0.1)
    assert reader(torch.full((1, 1, 28, 28), 0.7)).isfinite().all()  # blank
