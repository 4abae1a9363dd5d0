"""Pictures without a digit, or with more than one, for the network to reject.

None is constructed like those that the reader is evaluated on (`evaluation.picture_suite`).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from mnist_cnn.core.mnist import IMAGE_SIZE
from mnist_cnn_train.synthetic.digits import Font, bend, pick, sketch, write
from mnist_cnn_train.synthetic.strokes import Gray, Line, Random, draw, fit, smooth, wobble

SIDE = 96  # of a picture that is not drawn by a pen

# Without those that a hand writes as a digit: I l O o q s S z Z and the like.
LETTERS = "ABCDEFGHJKLMNPQRTUVWXYabcdefhkmnprtuvwxygij"
SIGNS = "+-=*#%&?!@$()<>{}^~:;/\\ÄÖÜßéñàæøÆŒ€£§¿"


def letter(fonts: Sequence[Font], rng: Random) -> Gray:
    """Write a letter or a sign in one of `fonts`."""
    alphabet = LETTERS if rng.random() < 0.85 else SIGNS.replace("/", "").replace("\\", "")
    text = pick(alphabet, rng)
    return write(text, pick(fonts, rng), rng)


def word(fonts: Sequence[Font], rng: Random) -> Gray:
    """Write two or three digits or letters in a row."""
    alphabet = "0123456789" if rng.random() < 0.6 else LETTERS
    text = "".join(pick(alphabet, rng) for _ in range(rng.integers(2, 4)))
    return write(text, pick(fonts, rng), rng)


def several(images: Sequence[Gray], rng: Random) -> Gray:
    """Put handwritten digits in a row, apart or touching: two, three, or one and part of one."""
    inks = [_cropped(pick(images, rng)) for _ in range(rng.integers(2, 4))]
    if len(inks) == 2 and rng.random() < 0.4:
        part = max(3, round(rng.uniform(0.4, 0.7) * inks[1].shape[1]))
        inks[1] = inks[1][:, :part]
    row = np.zeros((IMAGE_SIZE, sum(ink.shape[1] + 12 for ink in inks)), np.uint8)
    left = 6
    for ink in inks:
        height, width = ink.shape
        top = int(rng.integers(IMAGE_SIZE - height + 1))
        place = np.s_[top : top + height, left : left + width]
        row[place] = np.maximum(row[place], ink)
        left += width + int(rng.integers(-1, 7))
    side = max(row.shape[1], IMAGE_SIZE) + 8
    sheet = np.zeros((side, side), np.uint8)
    top = (side - IMAGE_SIZE) // 2
    sheet[top : top + IMAGE_SIZE, 4 : 4 + row.shape[1]] = row
    enlarged = cv2.resize(sheet, (2 * side, 2 * side), interpolation=cv2.INTER_CUBIC)
    return (255 - enlarged).astype(np.uint8)


def _cropped(image: Gray) -> Gray:
    rows, columns = (np.flatnonzero((image > 60).any(axis=axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def figure(rng: Random) -> Gray:
    """Draw polygons, crosses, arrows, zigzags, curls, grids and the like."""
    # Closed outlines are the closest to a 0.
    kinds = 3 * [_polygon] + 2 * [_outline] + OTHERS
    lines = pick(kinds, rng)(rng)
    if rng.random() < 0.3:
        lines = [smooth(line) for line in lines]
    return sketch(wobble(lines, rng.uniform(0, 0.03), rng), rng.uniform(0.8, 1.25), rng)


def _around(count: int, start: float, radius: float = 1) -> Line:
    turns = start + 2 * np.pi * np.arange(count + 1) / count
    return radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _polygon(rng: Random) -> list[Line]:
    corners = int(rng.choice([3, 3, 4, 4, 5, 6, 6, 7]))
    outline = _around(corners, rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.3:  # a star or a flower
        inner = _around(corners, rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.6))
        outline = np.stack([outline, inner], axis=1).reshape(-1, 2)
        outline[-1] = outline[0]
    elif rng.random() < 0.3:
        return [outline, 0.6 * outline]
    return [outline]


def _cross(rng: Random) -> list[Line]:
    count, start = int(rng.integers(2, 5)), rng.uniform(0, np.pi)
    if count == 2 and rng.random() < 0.5:
        start = rng.choice([0, np.pi / 4])
    turns = [start + np.pi * place / count for place in range(count)]
    return [np.array([(-np.cos(a), -np.sin(a)), (np.cos(a), np.sin(a))]) for a in turns]


def _arrow(rng: Random) -> list[Line]:
    head = rng.uniform(0.3, 0.8)
    lines = [np.array([(-1, 0), (1, 0)]), np.array([(1 - head, -head), (1, 0), (1 - head, head)])]
    turn = rng.uniform(0, 2 * np.pi)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return [line @ matrix for line in lines]


def _zigzag(rng: Random) -> list[Line]:
    count = int(rng.integers(5, 24))
    if rng.random() < 0.5:  # to and fro along a line
        return [np.stack([np.linspace(-1, 1, count), (-1.0) ** np.arange(count)], axis=1)]
    return [rng.uniform(-1, 1, (count, 2))]


def _curl(rng: Random) -> list[Line]:
    turns = np.linspace(0, 2 * np.pi * rng.uniform(1.6, 4), 60)
    radius = np.linspace(rng.uniform(0, 0.3), 1, 60)
    curl = np.stack([radius * np.cos(turns), radius * np.sin(turns)], axis=1)
    if rng.random() < 0.4:  # a row of loops
        curl = np.stack([turns / 8 + 0.5 * np.cos(turns), np.sin(turns)], axis=1)
    return [curl * rng.choice([-1, 1], 2)]


def _grid(rng: Random) -> list[Line]:
    rows, columns = (np.linspace(-1, 1, rng.integers(2, 5)) for _ in range(2))
    lines = [np.array([(-1, row), (1, row)]) for row in rows]
    return [*lines, *(np.array([(column, -1), (column, 1)]) for column in columns)]


def _face(rng: Random) -> list[Line]:
    eyes = [0.15 * _around(8, 0) + (side * rng.uniform(0.25, 0.45), -0.3) for side in (-1, 1)]
    turns = np.linspace(0.2, np.pi - 0.2, 8)
    mouth = np.stack([0.5 * np.cos(turns), rng.uniform(-0.2, 0.5) * np.sin(turns) + 0.3], axis=1)
    return [_around(24, 0), *eyes, mouth]


def _arcs(rng: Random) -> list[Line]:
    """Draw bows, waves and hooks that cross each other."""
    count = int(rng.integers(2, 6))
    return [smooth(rng.uniform(-1, 1, (rng.integers(3, 6), 2))) for _ in range(count)]


def _bars(rng: Random) -> list[Line]:
    """Draw parallel lines, such as a minus or an equals sign."""
    count = int(rng.integers(1, 5))
    rows = np.linspace(0, rng.uniform(0.4, 1.6), count) if count > 1 else [0.0]
    lines = [np.array([(-1, row), (rng.uniform(0.6, 1.2), row)]) for row in rows]
    return [line[:, ::-1] for line in lines] if count > 1 and rng.random() < 0.4 else lines


OTHERS = [_cross, _arrow, _zigzag, _curl, _grid, _face, _arcs, _bars]


def _outline(rng: Random) -> list[Line]:
    """Draw a closed outline, often symmetrical: hearts, drops, shields, leaves."""
    count = int(rng.integers(4, 12))
    radius = rng.uniform(0.35, 1, count)
    outline = _around(count, rng.uniform(0, 2 * np.pi))[:-1] * radius[:, None]
    if rng.random() < 0.6:
        half = outline[np.argsort(outline[:, 1])]
        half[:, 0] = np.abs(half[:, 0])
        outline = np.concatenate([half, half[::-1] * (-1, 1)])
    points = np.concatenate([outline, outline[:1]])
    return [smooth(points) if rng.random() < 0.6 else points]


def blot(rng: Random) -> Gray:
    """Fill an outline, plainly or with a pattern."""
    [points] = _outline(rng)
    [points] = fit([points], SIDE, rng.uniform(0.05, 0.25), rng.uniform(0.6, 1.4))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 255)
    inside = _clouds(rng) if rng.random() < 0.6 else np.full((SIDE, SIDE), 40, np.uint8)
    return np.where(mask > 0, inside // 2 + 20, 235).astype(np.uint8)


def texture(rng: Random) -> Gray:
    """Draw clouds, grain, or overlapping patches of all shades, which resemble photographs.

    Source of the patches: A. B. Lee, D. Mumford, J. Huang, "Occlusion models for natural images",
    IJCV 41 (2001).
    """
    picture = _clouds(rng)
    if rng.random() < 0.5:
        for _ in range(rng.integers(3, 40)):
            middle = tuple(rng.integers(0, SIDE, 2).tolist())
            axes = tuple((rng.pareto(2, 2) * 8 + 3).clip(3, 60).astype(int).tolist())
            shade, turn = int(rng.integers(256)), float(rng.uniform(0, 180))
            cv2.ellipse(picture, middle, axes, turn, 0, 360, shade, -1)
    return bend(picture, rng.uniform(0, 0.05), rng)


def _clouds(rng: Random) -> Gray:
    """Mix coarse and fine noise by chance."""
    values = np.zeros((SIDE, SIDE), np.float32)
    for cells in (3, 6, 12, 24, 48, 96):
        layer = rng.normal(size=(cells, cells)).astype(np.float32) * rng.exponential()
        values += cv2.resize(layer, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    values = 128 + rng.uniform(15, 90) * (values - values.mean()) / max(float(values.std()), 1e-6)
    clouds: Gray = values.clip(0, 255).astype(np.uint8)
    return clouds


def scribble(rng: Random) -> Gray:
    """Draw a line that goes to and fro, or round and round."""
    count = int(rng.integers(7, 30))
    if rng.random() < 0.5:
        points = np.cumsum(rng.normal(size=(count, 2)), axis=0)
    else:
        points = rng.uniform(-1, 1, (count, 2))
    line = smooth(points) if rng.random() < 0.6 else points
    side = int(rng.choice([28, 40, 80, 120]))
    pen = rng.uniform(1, 1 + 0.1 * side)
    return draw(fit([line], side, 0.1, 1.0), side, pen, rng.random() < 0.5, rng.random() < 0.5)
