import inspect

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
    FastDigitCNN,
    RobustDigitCNN,
    build,
    predict_logits,
    to_input,
)
from mnist_cnn_train.pipeline.params import Model

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
    assert sum(parameter.numel() for parameter in network.parameters()) == 8_890


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (DigitCNN(), 8_890),
        (FastDigitCNN(), 8_890),
        (DeepDigitCNN(), 9_802),
        (RobustDigitCNN(), 9_885),
    ],
    ids=["base", "fast", "deep", "robust"],
)
def test_networks_have_the_parameters_that_their_descriptions_state(
    network: nn.Module, parameters: int
) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert f"{parameters:,}" in inspect.getsource(mnist_cnn_train.model.networks)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("network", [DigitCNN(), FastDigitCNN(), DeepDigitCNN()], ids=type)
def test_convolutions_are_3x3_with_padding_1(network: nn.Module) -> None:
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert {(c.kernel_size, c.padding, c.stride) for c in convolutions} == {
        ((3, 3), (1, 1), (1, 1))
    }


def test_the_fast_network_does_not_see_the_two_outer_pixels() -> None:
    network = FastDigitCNN().eval()
    images = torch.rand(4, 1, 28, 28)
    other_border = nn.functional.pad(images[:, :, 2:-2, 2:-2], (2, 2, 2, 2), value=0.5)
    assert torch.equal(network(images), network(other_border))


def test_pooling_before_relu_gives_the_values_and_gradients_of_relu_before_pooling() -> None:
    torch.manual_seed(0)
    network = DigitCNN()
    convolution, norm, pool, relu = network.features[0]
    usual = nn.Sequential(convolution, norm, nn.ReLU(), pool)
    assert isinstance(relu, nn.ReLU)
    images = torch.rand(4, 1, 28, 28)
    results = []
    for block in (network.features[0], usual):
        convolution.zero_grad()
        output = block(images)
        output.square().sum().backward()
        results.append((output, convolution.weight.grad))
    torch.testing.assert_close(*results)


def test_the_architecture_is_the_one_that_is_asked_for() -> None:
    settings = {"dropout": 0.0, "normalization": "fixed", "tta_views": 1}
    assert type(build(Model(architecture="base", **settings))) is DigitCNN
    assert type(build(Model(architecture="fast", **settings))) is FastDigitCNN
    deep = build(Model(architecture="deep", dropout=0.25, normalization="fixed", tta_views=5))
    assert isinstance(deep, DeepDigitCNN)
    assert deep.dropout.p == 0.25
    assert deep.tta_views == 5


def test_to_the_robust_network_dark_on_light_is_light_on_dark() -> None:
    images = torch.rand(4, 1, 28, 28)
    robust = RobustDigitCNN(normalization="image").eval()
    torch.testing.assert_close(robust(1 - images), robust(images))
    other = DeepDigitCNN(normalization="image").eval()
    assert not torch.allclose(other(1 - images), other(images), atol=1e-3)


def test_normalization_is_part_of_the_network() -> None:
    network = DigitCNN().eval()
    images = torch.rand(4, 1, 28, 28)
    normalized = Normalize(PIXEL_MEAN, PIXEL_STD)(images)
    features = network.features(normalized).flatten(1)
    torch.testing.assert_close(network(images), network.classifier(features))


@pytest.mark.parametrize("network", [DigitCNN(0.5), FastDigitCNN(0.5), DeepDigitCNN(0.5)], ids=type)
def test_dropout_acts_in_training_only(network: nn.Module) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 28, 28)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("tta_views", [5, 9])
def test_views_are_the_mean_over_the_image_moved_by_up_to_a_pixel(tta_views: int) -> None:
    """Against torch's roll, of digits that keep a pixel away from the edge."""
    torch.manual_seed(0)
    network = DigitCNN(tta_views=tta_views).eval()
    images = nn.functional.pad(torch.rand(4, 1, 26, 26), (1, 1, 1, 1))
    moves = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    moves = [move for move in moves if tta_views == 9 or 0 in move]
    expected = [_single(network, images.roll(move, dims=(2, 3))) for move in moves]
    assert len(expected) == tta_views
    torch.testing.assert_close(network(images), torch.stack(expected).mean(0))


def _single(network: DigitCNN, images: Tensor) -> Tensor:
    alone = DigitCNN().eval()
    alone.load_state_dict(network.state_dict())
    return alone(images)


def test_views_bring_paper_in_at_the_edges() -> None:
    network = DigitCNN(normalization="fixed", tta_views=5).eval()
    ink = torch.ones(1, 1, 28, 28)
    moved = nn.functional.pad(ink[:, :, :, :27], (1, 0))
    up, left = nn.functional.pad(ink[:, :, :27], (0, 0, 0, 1)), moved.flip(3)
    tta_views = [ink, moved, left, up, up.flip(2)]
    expected = torch.stack([_single(network, view) for view in tta_views]).mean(0)
    torch.testing.assert_close(network(ink), expected)


def test_training_sees_one_view() -> None:
    torch.manual_seed(0)
    network = DigitCNN(tta_views=9)
    images = torch.rand(4, 1, 28, 28)
    alone = DigitCNN()
    alone.load_state_dict(network.state_dict())
    assert torch.equal(network(images), alone(images))


def test_input_is_scaled_to_one() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    assert to_input(pixels).shape == (3, 1, 1, 1)
    assert to_input(pixels).flatten().tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_logits_do_not_depend_on_the_batches(batch_size: int) -> None:
    network = DigitCNN()
    pixels = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8)
    expected = network.eval()(to_input(pixels))
    found = predict_logits(network, pixels, batch_size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.shape == (20, 10)


@pytest.mark.parametrize(
    ("architecture", "forward", "backward"),
    # Backward, each layer needs the gradients of its weights and, but for the first, its input.
    [
        (DigitCNN, 510_912, 2 * 510_912 - 56_448),
        (FastDigitCNN, 376_128, 2 * 376_128 - 41_472),
        (DeepDigitCNN, 961_056, 2 * 961_056 - 56_448),
    ],
)
def test_an_image_costs_the_stated_multiply_adds(
    architecture: type[DigitCNN | FastDigitCNN | DeepDigitCNN], forward: int, backward: int
) -> None:
    network = architecture()
    images = 4
    with FlopCounterMode(display=False) as counted:
        logits = network(torch.zeros(images, 1, 28, 28))
    assert counted.get_total_flops() == 2 * images * forward
    with FlopCounterMode(display=False) as counted:
        logits.sum().backward()
    assert counted.get_total_flops() == 2 * images * backward


@pytest.mark.parametrize("network", [DigitCNN, FastDigitCNN, DeepDigitCNN])
def test_normalized_by_image_neither_brightness_nor_contrast_matters(network) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 1, 28, 28)
    reader = network(normalization="image").eval()
    expected = reader(images)
    assert torch.allclose(reader(0.5 * images + 0.3), expected, atol=0.01)
    assert not torch.allclose(network().eval()(0.5 * images + 0.3), expected, atol=0.1)
    assert reader(torch.full((1, 1, 28, 28), 0.7)).isfinite().all()  # blank
