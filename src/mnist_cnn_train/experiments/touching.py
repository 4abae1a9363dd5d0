"""Fit the weights by which the reader chooses among the pieces of digits that touch.

A conditional random field over all ways to cut a row: the likelihood of the row's labels is
maximized, wherever the cuts are, so that no cut needs to be annotated. Source: Y. LeCun et al.
1998, section VI, whose graph transformer networks are trained alike.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from mnist_cnn.imaging.cuts import cut_up
from mnist_cnn.imaging.ink import find_ink
from mnist_cnn.imaging.segment import separate
from mnist_cnn.onnxfile.model import DigitModel
from mnist_cnn.reader.touching import LEAST, Weights, features_of
from mnist_cnn_train.evaluation.rows import DigitRow

Values = npt.NDArray[np.float64]
ROWS = 500  # of four digits each, to fit to
EPOCHS, RATE = 24, 0.5
MAX_GRADIENT = 5.0  # norm, to which larger gradients are clipped
MAX_SCORE = 60.0  # of a piece, so that products of exponentials stay finite
IMPOSSIBLE = 1e-250


@dataclass(frozen=True)
class Candidates:
    """The pieces of one component of ink, and the labels that it holds.

    Attributes:
        cuts: number of cuts, with both ends.
        ends: int64 ``[n, 2]``, cuts on the left and right of each piece.
        known: ``[n, 10]``, logarithm of each label's probability.
        features: ``[n, features]``.
        labels: from left to right.
    """

    cuts: int
    ends: npt.NDArray[np.int64]
    known: Values
    features: Values
    labels: list[int]


def candidates(rows: Iterable[DigitRow], model: DigitModel) -> Iterator[Candidates]:
    """Yield each component of the rows' ink that can be cut up and holds a digit's middle."""
    for row in rows:
        for line in separate(find_ink(row.image)):
            for box, ink in line:
                pairs = zip(row.labels, row.middles, strict=True)
                labels = [label for label, middle in pairs if box.left <= middle < box.right]
                pieces = cut_up(ink) if labels else None
                if pieces is not None:
                    outputs = model.run(pieces.images)
                    known = np.log(outputs.probabilities.astype(np.float64).clip(LEAST, 1))
                    features = features_of(pieces, outputs)
                    yield Candidates(pieces.cuts, pieces.ends, known, features, labels)


def fit(rows: Sequence[Candidates], seed: int) -> Weights:
    """Fit by stochastic gradients with AdaGrad; return the mean over the second half.

    Args:
        rows: at least one.
        seed: of the order in which the rows are taken.
    """
    rng = np.random.default_rng(seed)
    shape = (10, rows[0].features.shape[1])
    weights = np.concatenate([np.ones(1), np.zeros(shape[0] * shape[1])])
    squares, total, count = np.full_like(weights, 1e-2), np.zeros_like(weights), 0
    for epoch in range(EPOCHS):
        for place in rng.permutation(len(rows)):
            gradient = _gradient(rows[place], weights[0], weights[1:].reshape(shape))
            gradient /= max(1.0, float(np.linalg.norm(gradient)) / MAX_GRADIENT)
            squares += gradient**2
            weights = weights - RATE * gradient / np.sqrt(squares)
            if epoch >= EPOCHS // 2:
                total, count = total + weights, count + 1
    mean = total / count
    return Weights(float(mean[0]), mean[1:].reshape(shape))


def _gradient(row: Candidates, known: float, features: Values) -> Values:
    """Return the gradient of the negative log-likelihood of the labels; 0 if they cannot be cut."""
    scores = known * row.known + row.features @ features.T
    weight = np.exp(scores.clip(-MAX_SCORE, MAX_SCORE / 3))
    free, forced = _any_labels(row, weight), _the_labels(row, weight)
    if free is None or forced is None:
        return np.zeros(1 + features.size)
    surplus = free - forced
    return np.concatenate([[(surplus * row.known).sum()], (surplus.T @ row.features).ravel()])


def _any_labels(row: Candidates, weight: Values) -> Values | None:
    """Return the probability of each piece and label, ``[n, 10]``, over all ways to cut."""
    start, end = row.ends.T
    step = np.zeros((row.cuts, row.cuts))
    step[start, end] = weight.sum(axis=1)
    # The sum over all paths between two cuts; no path returns, so that the series ends.
    paths = np.linalg.inv(np.eye(row.cuts) - step)
    total = paths[0, -1]
    if total < IMPOSSIBLE:
        return None
    return cast("Values", (paths[0, start] * paths[end, -1] / total)[:, None] * weight)


def _the_labels(row: Candidates, weight: Values) -> Values | None:
    """Return the same over the ways to cut that give the row's labels."""
    start, end = row.ends.T
    steps = []
    for label in row.labels:
        step = np.zeros((row.cuts, row.cuts))
        step[start, end] = weight[:, label]
        steps.append(step)
    first, last = np.eye(row.cuts)[0], np.eye(row.cuts)[-1]
    before, after = [first], [last]
    for step in steps:
        before.append(before[-1] @ step)
    for step in reversed(steps):
        after.append(step @ after[-1])
    total = before[-1][-1]
    if total < IMPOSSIBLE:
        return None
    expected = np.zeros_like(weight)
    for place, label in enumerate(row.labels):
        ahead = after[len(row.labels) - place - 1]
        expected[:, label] += before[place][start] * weight[:, label] * ahead[end] / total
    return expected
