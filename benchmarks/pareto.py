"""Accuracy by number of parameters: the best of several networks of each size, over ten seeds.

Trains all seeds of a network at once, as one network with a group of channels for each seed, which
keeps a GPU busy; on a CPU it takes days. The settings are those of params.yaml. For each size, the
network with the best mean validation accuracy is evaluated on the test images. Writes
metrics/pareto.json after each size, skips what it holds, and plots it.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_cnn.core.files import read_json, write_json
from mnist_cnn.core.mnist import IMAGE_SIZE, LABELS, PIXEL_MEAN, PIXEL_STD
from mnist_cnn_train.data.dataset import Dataset, read_test_digits
from mnist_cnn_train.data.split import load_split
from mnist_cnn_train.experiments.figures import plot_pareto
from mnist_cnn_train.experiments.paths import PARETO, PARETO_FIGURE
from mnist_cnn_train.experiments.seeds import summarize
from mnist_cnn_train.model.networks import to_input
from mnist_cnn_train.pipeline.params import Train, load_params
from mnist_cnn_train.pipeline.paths import RAW_DATA
from mnist_cnn_train.training.setup import learning_rate_factor

# For each limit of parameters, networks by their convolutions of 3x3: the number of channels, `d`
# if separable into depthwise and pointwise, `p` if max-pool follows. Then `flat`: the classifier
# sees all positions; or `mean`: it sees their mean.
NETWORKS = {
    700: ("6p d8p d10 d9 mean", "6p d8p d11 d8p mean"),
    1_000: ("8p d12p d12 d12 mean", "4p 6p 6 5 mean"),
    2_000: ("6p 8p 8 8 mean", "8p d16p d18 d17 d18 mean"),
    5_000: ("8p 14p 14 14 mean", "8p d20p d28 d28 d28 d28 mean"),
    8_890: ("8p 16p 32p flat", "8p 16p 16 16 16 mean"),
    9_999: ("8p 16 16p 16 16p flat",),
}
EVALUATED_AT_ONCE = 1_000  # images
WARM_UP_STEPS = 4  # before a CUDA graph is captured


class Networks(nn.Module):
    """Several networks of one kind, side by side, with a group of channels for each."""

    def __init__(self, kind: str, count: int) -> None:
        """Create `count` networks of a `kind` in `NETWORKS`."""
        super().__init__()
        *layers, self._head = kind.split()
        self._count, channels, side = count, 1, IMAGE_SIZE
        self._layers = nn.ModuleList()
        for layer in layers:
            separable, width, pools = re.fullmatch(r"(d?)(\d+)(p?)", layer).groups()
            outputs = int(width)
            self._layers.append(_layer(channels, outputs, count, bool(separable), bool(pools)))
            channels, side = outputs, side // 2 if pools else side
        inputs = channels * side**2 if self._head == "flat" else channels
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(count, inputs, len(LABELS)).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, 1, len(LABELS)).uniform_(-bound, bound))

    @property
    def parameters_each(self) -> int:
        """Number of parameters of one network."""
        return sum(parameter.numel() for parameter in self.parameters()) // self._count

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float ``[count, n, 10]``, of ``[n, count, 28, 28]`` in [0, 1]."""
        features = (images - PIXEL_MEAN) / PIXEL_STD
        for layer in self._layers:
            features = layer(features)
        if self._head == "mean":
            features = features.mean((2, 3))
        features = features.reshape(len(images), self._count, -1).transpose(0, 1)
        return torch.baddbmm(self.bias, features, self.weight)


def _layer(inputs: int, outputs: int, count: int, separable: bool, pools: bool) -> nn.Sequential:
    """Return a convolution, max-pool if `pools`, batch norm and ReLU, for `count` networks."""
    wide = (count * inputs, count * outputs)
    if separable:
        parts: list[nn.Module] = [
            nn.Conv2d(wide[0], wide[0], 3, padding=1, groups=wide[0], bias=False),
            nn.Conv2d(*wide, 1, groups=count, bias=False),
        ]
    else:
        parts = [nn.Conv2d(*wide, 3, padding=1, groups=count, bias=False)]
    if pools:
        parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.BatchNorm2d(wide[1]), nn.ReLU())


class Flat:
    """A network's parameters and batch statistics, each in one tensor, and their averages.

    Training is then a few operations for all of them: SGD with Nesterov momentum, and an
    exponential moving average.
    """

    def __init__(self, network: nn.Module, recipe: Train) -> None:
        """Move the values of `network` into flat tensors, of which it keeps views."""
        self._recipe = recipe
        parameters = list(network.parameters())
        self.values = _flatten(parameters)
        self.gradients = torch.zeros_like(self.values)
        self.momentum = torch.zeros_like(self.values)
        decays = [torch.full_like(one, _is_weight(one)) for one in parameters]
        self._decay = recipe.weight_decay * _flatten(decays)
        for one, value, gradient in zip(
            parameters,
            _views(self.values, parameters),
            _views(self.gradients, parameters),
            strict=True,
        ):
            one.data, one.grad = value, gradient
        statistics = [one for one in network.buffers() if one.is_floating_point()]
        self.statistics = _flatten(statistics)
        for one, value in zip(statistics, _views(self.statistics, statistics), strict=True):
            one.set_(value)
        self.averages = self.values.clone(), self.statistics.clone()
        self.rate = torch.zeros((), device=self.values.device)

    def step(self) -> None:
        """Update all values by their gradients, at the learning rate `rate`."""
        gradients = self.gradients + self._decay * self.values
        self.momentum.mul_(self._recipe.momentum).add_(gradients)
        self.values.sub_(self.rate * (gradients + self._recipe.momentum * self.momentum))
        for average, value in zip(self.averages, (self.values, self.statistics), strict=True):
            average.lerp_(value, 1 - self._recipe.ema_decay)

    def take_averages(self) -> None:
        """Replace the values by their averages."""
        self.values.copy_(self.averages[0])
        self.statistics.copy_(self.averages[1])


def _is_weight(parameter: Tensor) -> float:
    return float(parameter.ndim == 4 or (parameter.ndim == 3 and parameter.shape[1] > 1))


def _flatten(tensors: list[Any]) -> Tensor:
    return torch.cat([one.detach().flatten() for one in tensors])


def _views(flat: Tensor, like: list[Any]) -> Iterator[Tensor]:
    parts = flat.split([one.numel() for one in like])
    return (part.view_as(one) for part, one in zip(parts, like, strict=True))


class Trainer:
    """Trains `Networks`, each on its own order of the images and its own distortions."""

    def __init__(self, kind: str, seeds: int, digits: Dataset, recipe: Train, device: str) -> None:
        """Create `seeds` networks of a `kind`, to train on `digits`."""
        torch.manual_seed(recipe.seed)
        self._recipe, self._device = recipe, device
        self.networks = Networks(kind, seeds).to(device)
        self._flat = Flat(self.networks, recipe)
        self._pixels = torch.from_numpy(digits.images).to(device)
        self._labels = torch.from_numpy(digits.labels).to(device)
        self._chosen = torch.zeros((seeds, recipe.batch_size), dtype=torch.int64, device=device)
        self._strength = torch.ones((), device=device)  # of the distortions

    def train(self) -> None:
        """Train for all epochs, and take the averaged weights."""
        recipe, seeds = self._recipe, len(self._chosen)
        batches = len(self._pixels) // recipe.batch_size
        factor = learning_rate_factor(recipe, recipe.epochs * batches)
        step = self._captured() if self._device == "cuda" else self._step
        for epoch in range(recipe.epochs):
            self._strength.fill_(epoch < recipe.epochs - recipe.unaugmented_epochs)
            orders = [torch.randperm(len(self._pixels), device=self._device) for _ in range(seeds)]
            used = torch.stack(orders)[:, : batches * recipe.batch_size]
            for place, chosen in enumerate(used.view(seeds, batches, -1).unbind(1)):
                self._chosen.copy_(chosen)
                self._flat.rate.fill_(recipe.learning_rate * factor(epoch * batches + place))
                step()
        self._flat.take_averages()

    def _step(self) -> None:
        labels = self._labels[self._chosen]
        images = self._distorted(to_input(self._pixels[self._chosen.flatten()]))
        images = images.view(*self._chosen.shape, IMAGE_SIZE, IMAGE_SIZE).transpose(0, 1)
        logits = self.networks(images.contiguous())
        self._flat.gradients.zero_()
        # The sum over the networks, since none affects another's gradients.
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (loss * len(self._chosen)).backward()
        self._flat.step()

    def _distorted(self, images: Tensor) -> Tensor:
        """Distort each image at random, on its own device."""
        settings = self._recipe.augmentation

        def draw(half_width: float) -> Tensor:
            drawn = (2 * torch.rand(len(images), device=self._device) - 1) * half_width
            return drawn * self._strength

        angle, scale = draw(math.radians(settings.rotation)), 1 + draw(settings.scale)
        shears = [draw(math.radians(settings.shear)).tan() for _ in range(2)]
        # The whole image is 2 wide in these coordinates.
        moves = [2 * draw(settings.translation) for _ in range(2)]
        cosine, sine = angle.cos() * scale, angle.sin() * scale
        across = torch.stack([cosine, shears[0] - sine, moves[0]], 1)
        down = torch.stack([shears[1] + sine, cosine, moves[1]], 1)
        matrices = torch.stack([across, down], 1)
        grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)

    def _captured(self) -> Callable[[], None]:
        """Return a step as a CUDA graph; capturing it leaves the weights as they are."""
        changed = (self._flat.values, self._flat.momentum, self._flat.statistics)
        before = [one.clone() for one in (*changed, *self._flat.averages)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        for one, value in zip((*changed, *self._flat.averages), before, strict=True):
            one.copy_(value)
        return graph.replay

    @torch.no_grad()
    def accuracies(self, digits: Dataset) -> list[float]:
        """Return the accuracy of each network on `digits`."""
        self.networks.eval()
        pixels = torch.from_numpy(digits.images).to(self._device)
        labels = torch.from_numpy(digits.labels).to(self._device)
        seeds = len(self._chosen)
        batches = pixels.split(EVALUATED_AT_ONCE)
        logits = [self.networks(to_input(part).expand(-1, seeds, -1, -1)) for part in batches]
        correct = torch.cat(logits, 1).argmax(2) == labels
        return [round(one, 6) for one in correct.double().mean(1).tolist()]


@dataclass(frozen=True)
class Sets:
    """The images."""

    training: Dataset
    validation: Dataset
    test: Dataset


def measure(limit: int, seeds: int, sets: Sets, recipe: Train, device: str) -> dict[str, Any]:
    """Train the networks of a size, and evaluate the best on the test images; ready for JSON."""
    tried: dict[str, Any] = {}
    trainers = {}
    for kind in NETWORKS[limit]:
        trainer = trainers[kind] = Trainer(kind, seeds, sets.training, recipe, device)
        trainer.train()
        found = summarize(trainer.accuracies(sets.validation))
        parameters = trainer.networks.parameters_each
        tried[kind] = {"parameters": parameters, "validation_accuracy": found}
        print(f"{kind}: {parameters:,} parameters, validation accuracy {found['mean']:.4f}")
    best = max(tried, key=lambda kind: tried[kind]["validation_accuracy"]["mean"])
    accuracies = trainers[best].accuracies(sets.test)
    by_seed = {str(seed): accuracy for seed, accuracy in enumerate(accuracies)}
    return {
        "chosen": best,
        "parameters": tried[best]["parameters"],
        "accuracy": {**summarize(accuracies), "seeds": by_seed},
        "tried": tried,
    }


def main() -> None:
    """Measure the sizes that are not in the report yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    params = load_params()
    sets = Sets(*load_split(RAW_DATA, params.data.split), read_test_digits(RAW_DATA))
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    report = read_json(PARETO) if PARETO.is_file() else {"sizes": {}}
    report |= {"machine": f"{name}, torch {torch.__version__}", "epochs": params.train.epochs}
    for limit in NETWORKS:
        if str(limit) not in report["sizes"]:
            found = measure(limit, options.seeds, sets, params.train, options.device)
            report["sizes"][str(limit)] = found
            write_json(PARETO, report)
    plot_pareto(report["sizes"], PARETO_FIGURE)


if __name__ == "__main__":
    main()
