"""Choose, of the pieces of digits that touch, the row of digits that is most likely.

A piece scores by what the network says of it and by its features, separately for each label; a row
by the sum over its pieces. The weights are those of a conditional random field, fitted to rows of
validation digits by `mnist_cnn_train.experiments.touching`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from mnist_cnn.imaging.box import Box
from mnist_cnn.imaging.cuts import Pieces, cut_up
from mnist_cnn.imaging.ink import Plane
from mnist_cnn.imaging.load import Gray
from mnist_cnn.onnxfile.model import DigitModel, Outputs

WEIGHTS = Path(__file__).with_name("touching.json")

# One digit, if its probability is above this and its ink is no wider than this, in heights.
SURE, WIDE = 0.97, 1.5
MAX_DOUBTFUL = 60  # marks on a page; if there are more, they are letters or words
LEAST = 1e-6  # probability


@dataclass(frozen=True)
class Weights:
    """What the score of a piece counts.

    Attributes:
        log_probability: weight of the logarithm of a label's probability.
        features: float64 ``[10, n]``, for each label, weights of the features from `features_of`.
    """

    log_probability: float
    features: npt.NDArray[np.float64]


@cache
def packaged_weights() -> Weights:
    """Return the weights in the package."""
    content = json.loads(WEIGHTS.read_text())
    return Weights(content["log_probability"], np.array(content["features"]))


def may_be_several(marks: Sequence[Plane], outputs: Outputs) -> npt.NDArray[np.bool_]:
    """Return which of the n marks of a page may be several digits; none on a page of text.

    `outputs` are the model's for the marks.
    """
    none = np.zeros(len(marks), np.bool_)
    if outputs.not_a_digit is None or outputs.probabilities.shape[1] != 10:
        return none
    wide = np.array([mark.shape[1] > WIDE * mark.shape[0] for mark in marks])
    sure = outputs.probabilities.max(axis=1) * (1 - outputs.not_a_digit)
    several = wide | (sure < SURE)
    return none if several.sum() > MAX_DOUBTFUL else cast("npt.NDArray[np.bool_]", several)


def take_apart(digit: Plane, model: DigitModel) -> list[tuple[Box, Gray]]:
    """Return the box and image of each digit in ink that may be several; none if it is one."""
    pieces = cut_up(digit)
    if pieces is None:
        return []
    scores = score(pieces, model.run(pieces.images), packaged_weights())
    row = best_row(pieces, scores.max(axis=1))
    return [(pieces.boxes[piece], pieces.images[piece]) for piece in row] if len(row) > 1 else []


def features_of(pieces: Pieces, outputs: Outputs) -> npt.NDArray[np.float64]:
    """Return the features of n pieces and of the model's `outputs` for them, ``[n, features]``.

    Raises:
        ValueError: if the model does not say what is no digit.
    """
    if outputs.not_a_digit is None:
        raise ValueError("needs a model with the output not_a_digit")
    rejected = outputs.not_a_digit.astype(np.float64).clip(LEAST, 1 - LEAST)
    doubt = np.log(rejected / (1 - rejected)) / 5
    return np.column_stack([pieces.features, np.log(1 - rejected), doubt])


def score(pieces: Pieces, outputs: Outputs, weights: Weights) -> npt.NDArray[np.float64]:
    """Return the score of n pieces for each label, ``[n, 10]``."""
    known = np.log(outputs.probabilities.astype(np.float64).clip(LEAST, 1))
    scores = weights.log_probability * known + features_of(pieces, outputs) @ weights.features.T
    return cast("npt.NDArray[np.float64]", scores)


def best_row(pieces: Pieces, scores: npt.NDArray[np.float64]) -> list[int]:
    """Return the pieces, from the left to the right end, of the largest total of `scores`, ``[n]``.

    Empty if no pieces reach from end to end.
    """
    total = np.full(pieces.cuts, -np.inf)
    total[0] = 0
    last = np.full(pieces.cuts, -1)
    for end in range(1, pieces.cuts):
        arriving = np.flatnonzero(pieces.ends[:, 1] == end)
        if arriving.size:
            reached = total[pieces.ends[arriving, 0]] + scores[arriving]
            total[end], last[end] = reached.max(), arriving[int(reached.argmax())]
    row: list[int] = []
    place = pieces.cuts - 1
    if not np.isfinite(total[place]):
        return row
    while place > 0:
        row.append(int(last[place]))
        place = int(pieces.ends[row[-1], 0])
    return row[::-1]
