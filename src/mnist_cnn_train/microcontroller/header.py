"""Write a quantized network as a C header."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from mnist_cnn.core.mnist import IMAGE_SIZE
from mnist_cnn_train.microcontroller.quantize import Integers, QuantizedLayer, QuantizedNetwork

TEMPLATE = Path(__file__).with_name("mnist_cnn.h.in")
PREFIX = "mnist_cnn"
WIDTH = 100
ALL_ROWS = 255  # the mask of row numbers for the image, which is there as a whole
# Max-pool of 2 x 2 after a convolution of 3 x 3 reads four rows.
RING_ROWS = 4


def to_header(
    network: QuantizedNetwork, architecture: str, names: Sequence[str], weights_sha256: str
) -> str:
    """Return the C header that computes `network`; the same network gives the same text.

    Args:
        network: what the header computes.
        architecture: for the comment at its top.
        names: the classes in the order of the logits, for that comment.
        weights_sha256: of the file with the float weights, for that comment.
    """
    last = network.layers[-1]
    side = _side_after(last)
    return Template(TEMPLATE.read_text(encoding="ascii")).substitute(
        names=re.sub(r"[^\w ,.+-]", "_", ", ".join(names), flags=re.ASCII),
        architecture=architecture,
        sha256=weights_sha256,
        classes=len(names),
        steps=network.steps_per_logit,
        arrays="\n".join(_arrays(network)),
        pixels=IMAGE_SIZE**2,
        image_side=IMAGE_SIZE,
        offset=network.crop * (IMAGE_SIZE + 1),
        layers=len(network.layers),
        features_side=side,
        features_row=side * len(last.biases),
    )


def _arrays(network: QuantizedNetwork) -> Iterator[str]:
    """Yield the definitions of all arrays, the weights in the order in which C reads them."""
    masks = [ALL_ROWS, *[RING_ROWS - 1] * (len(network.layers) - 1), 0]
    table = []
    for number, layer in enumerate(network.layers, 1):
        yield _array("int8_t", f"weights{number}", layer.weights)
        yield _array("int32_t", f"biases{number}", layer.biases)
        yield _array("uint32_t", f"scales{number}", layer.scales)
        rows = (masks[number] + 1) * _side_after(layer) * len(layer.biases)
        yield f"static uint8_t {PREFIX}_rows{number}[{rows}];"
        table.append(_entry(layer, number, masks[number - 1], masks[number]))
    by_row = network.weights.transpose(1, 0, 2, 3)
    yield _array("int8_t", "linear", by_row)
    yield _array("int32_t", "linear_biases", network.biases)
    entries = ",\n".join(table)
    yield f"static const {PREFIX}_layer {PREFIX}_layers[{len(table)}] = {{\n{entries}\n}};"


def _array(kind: str, name: str, values: Integers) -> str:
    suffix = "u" if kind == "uint32_t" else ""
    numbers = ", ".join(f"{value}{suffix}" for value in values.ravel().tolist())
    lines = textwrap.fill(numbers, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return f"static const {kind} {PREFIX}_{name}[{values.size}] = {{\n{lines}\n}};"


def _entry(layer: QuantizedLayer, number: int, in_mask: int, out_mask: int) -> str:
    arrays = [f"{PREFIX}_{name}{number}" for name in ("weights", "biases", "scales", "rows")]
    outputs, *_, inputs = layer.weights.shape
    sizes = (layer.side, inputs, outputs, layer.pool, layer.zero, in_mask, out_mask)
    return f"    {{{', '.join(arrays)}, {', '.join(map(str, sizes))}}}"


def _side_after(layer: QuantizedLayer) -> int:
    return layer.side >> layer.pool
